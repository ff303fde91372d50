"""Command lines and environments: who sees which secret, which devices, which server."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.services.database import database_of
from tasks.services.devices import groups_of
from tasks.services.programs import Setting, client_environment, programs_of, setup_command
from tasks.services.spec import ServicesSpec

SHELL = {
    "PATH": "/bin",
    "PREFECT_API_URL": "http://elsewhere/api",
    "PREFECT_PROFILE": "other",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://me:hidden@db/prefect",
    "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
    "PYTHONPATH": "/mine",
    "no_proxy": "intra",
}


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    spec = ServicesSpec(port=4201, mlflow_port=5001, cpu_runs=3, notify="slack-webhook/team")
    database = database_of(SHELL["PREFECT_API_DATABASE_CONNECTION_URL"], tmp_path)
    groups = tuple(groups_of(["0,1", "cpu"], ["0", "1"]))
    return Setting(tmp_path, spec, groups, database, "admin:secret", "mark", SHELL)


def test_the_services_and_their_order(setting: Setting) -> None:
    assert [each.name for each in programs_of(setting)] == ["server", "mlflow", "cpu", "gpu-0", "gpu-stand-in-1"]
    assert [each.role for each in programs_of(setting)] == ["server", "mlflow", "worker", "worker", "worker"]


def test_no_command_line_holds_a_secret(setting: Setting) -> None:
    assert not [each for each in programs_of(setting) if "hidden" in str(each.command) or "secret" in str(each.command)]


def test_the_databases_address_reaches_the_server_alone(setting: Setting) -> None:
    assert [each.name for each in programs_of(setting) if "hidden" in str(each.environment)] == ["server"]


def test_the_password_reaches_the_server_and_its_clients(setting: Setting) -> None:
    server, mlflow, *workers = programs_of(setting)
    assert server.environment["PREFECT_SERVER_API_AUTH_STRING"] == "admin:secret"
    assert "secret" not in str(mlflow.environment)
    for worker in workers:
        assert worker.environment["PREFECT_API_AUTH_STRING"] == "admin:secret"
        assert "PREFECT_SERVER_API_AUTH_STRING" not in worker.environment


@pytest.mark.parametrize(("password", "local"), [("admin:secret", ""), ("", "1")])
def test_without_a_password_the_server_answers_to_loopback_names_alone(setting: Setting, password: str, local: str) -> None:
    assert programs_of(replace(setting, password=password))[0].environment["TUNEFLOW_LOCAL_ONLY"] == local


def test_each_worker_sees_its_devices(setting: Setting) -> None:
    seen = {each.name: each.environment["CUDA_VISIBLE_DEVICES"] for each in programs_of(setting)}
    assert seen == {"server": "", "mlflow": "", "cpu": "", "gpu-0": "0,1", "gpu-stand-in-1": ""}
    stand_ins = {each.name: each.environment.get("TUNEFLOW_STAND_IN") for each in programs_of(setting)}
    assert stand_ins == {"server": None, "mlflow": None, "cpu": None, "gpu-0": None, "gpu-stand-in-1": "stand-in-1"}


def test_each_worker_has_its_pool_and_limit(setting: Setting) -> None:
    found = {}
    for each in programs_of(setting):
        if each.role == "worker":
            words = list(each.command)
            limit = words[words.index("--limit") + 1] if "--limit" in words else "the pool's"
            found[each.name] = (words[words.index("--pool") + 1], limit)
    assert found == {"cpu": ("cpu", "the pool's"), "gpu-0": ("gpu", "1"), "gpu-stand-in-1": ("gpu", "1")}


def test_every_service_is_marked_quiet_and_at_home_in_the_workspace(setting: Setting) -> None:
    for each in programs_of(setting):
        variables = each.environment
        assert variables["TUNEFLOW_SERVICE"] == "mark"
        assert (variables["PREFECT_SERVER_ANALYTICS_ENABLED"], variables["DO_NOT_TRACK"]) == ("false", "1")
        assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert variables["PREFECT_HOME"] == str(setting.workspace / "server")
        assert "PREFECT_PROFILE" not in variables
        assert variables["PYTHONPATH"].endswith(":/mine")
        assert variables["NO_PROXY"] == variables["no_proxy"] == "intra,127.0.0.1,localhost,::1"


def test_only_this_server_is_called(setting: Setting) -> None:
    server, mlflow, *workers = programs_of(setting)
    assert {worker.environment["PREFECT_API_URL"] for worker in workers} == {"http://127.0.0.1:4201/api"}
    assert "PREFECT_API_URL" not in server.environment
    assert "PREFECT_API_URL" not in mlflow.environment
    assert server.environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4201"


def test_sqlite_lies_in_the_workspace(setting: Setting) -> None:
    default = replace(setting, database=database_of("", setting.workspace))
    address = programs_of(default)[0].environment["PREFECT_API_DATABASE_CONNECTION_URL"]
    assert address == f"sqlite+aiosqlite:///{setting.workspace}/server/prefect.db"


def test_what_the_user_sets_holds(setting: Setting) -> None:
    own = replace(setting, inherited={**SHELL, "PREFECT_UI_API_URL": "https://x/api", "PREFECT_WORKER_QUERY_SECONDS": "7"})
    assert programs_of(own)[0].environment["PREFECT_UI_API_URL"] == "https://x/api"
    assert client_environment(own)["PREFECT_WORKER_QUERY_SECONDS"] == "7"
    assert programs_of(setting)[0].environment["PREFECT_UI_API_URL"] == "/api"


def test_setup_is_told_how_many_runs_and_devices_there_are(setting: Setting) -> None:
    assert setup_command(setting)[1:] == [
        "-m", "flows.cli", "setup", "--workspace", str(setting.workspace), "--cpu-runs", "3", "--gpu-runs", "2",
        "--gpu-devices", "3", "--notify", "slack-webhook/team",
    ]  # fmt: skip
