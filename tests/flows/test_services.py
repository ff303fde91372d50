"""`tuneflow up` and `down` for real: two workspaces beside one another, one on SQLite, one on PostgreSQL with a password."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest

from flows.cli import main
from tasks.services.state import carries, marked, read_services, running_api
from tests.servers import BIN, ROOT, free_port, healthy, postgres, user_environment, wait_for

PASSWORD = "admin:open-sesame"
DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
AUTH = "PREFECT_SERVER_API_AUTH_STRING"
EMPTY_FIELD = {"__prefect_kind": "json"}  # as the page sends it, of keys and values
SLOW_FLOW = """
import sys
from prefect import flow
from tasks.process import run_child

CHILD = '''
import pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
def ended(*_):
    time.sleep(1); place.with_name("checkpoint").write_text("whole"); sys.exit(0)
signal.signal(signal.SIGTERM, ended)
place.write_text("started")
time.sleep(600)
'''

@flow
def slow(place: str):
    run_child([sys.executable, "-c", CHILD, place])
"""
DEPLOY = """
import sys
from prefect import flow
slow = flow.from_source(source=sys.argv[1], entrypoint="slow.py:slow")
slow.deploy(name="slow", work_pool_name="cpu", ignore_warnings=True, job_variables={"stream_output": False})
"""


@dataclass(frozen=True)
class Place:
    """A workspace of which services are up."""

    workspace: Path
    facts: dict[str, Any]
    variables: dict[str, str]

    def tuneflow(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in this workspace."""
        return tuneflow(*arguments, "--workspace", str(self.workspace), **{**self.variables, **variables})

    @property
    def mark(self) -> str:
        services = read_services(self.workspace)
        assert services
        return services.mark


class Client:
    """Speaks to a Prefect API as a program that is no browser and no Prefect client."""

    def __init__(self, address: str, password: str = "") -> None:
        auth = (password.partition(":")[0], password.partition(":")[2]) if password else None
        self._client = httpx.Client(base_url=address, auth=auth, trust_env=False, timeout=60)

    def post(self, path: str, content: object) -> httpx.Response:
        name = uuid4().hex
        for _ in range(10):  # 503 is SQLite that is busy; Prefect's own clients try again too
            answer = self._client.get("/csrf-token", params={"client": name})
            if answer.status_code == 200:
                headers = {"Prefect-Csrf-Client": name, "Prefect-Csrf-Token": answer.json()["token"]}
                answer = self._client.post(path, json=content, headers=headers)
            if answer.status_code != 503:
                break
            time.sleep(1)
        return answer

    def workers(self) -> dict[str, str]:
        found = [worker for pool in ("cpu", "gpu") for worker in self.post(f"/work_pools/{pool}/workers/filter", {}).json()]
        return {worker["name"]: worker["status"] for worker in found}

    def deployment(self, name: str) -> str:
        found = self.post("/deployments/filter", {}).raise_for_status().json()
        return str(next(each["id"] for each in found if each["name"] == name))


def tuneflow(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**user_environment(), **variables}
    return subprocess.run(
        [str(BIN / "tuneflow"), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def ports() -> list[str]:
    return ["--port", str(free_port()), "--mlflow-port", str(free_port())]


def bring_up(workspace: Path, *arguments: str, **variables: str) -> Place:
    done = tuneflow("up", "--workspace", str(workspace), *ports(), *arguments, "--json", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return Place(workspace, json.loads(done.stdout.splitlines()[-1]), variables)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """SQLite, two GPU workers that are stand-ins, no password."""
    place = bring_up(tmp_path_factory.mktemp("first") / "ws", "--cpu-runs", "2", "--gpu-group", "cpu", "--gpu-group", "cpu")
    yield place
    place.tuneflow("down")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """PostgreSQL and a password, on every address of the machine."""
    # Not below pytest's folder: another session of pytest may close that for PostgreSQL's user.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, postgres(Path(folder) / "postgres") as url:
        address = url.replace("//prefect@", "//prefect:hidden-word@")
        variables = {DATABASE: address, AUTH: PASSWORD}
        place = bring_up(
            tmp_path_factory.mktemp("second") / "ws", "--host", "0.0.0.0", "--cpu-runs", "20", "--gpu-group", "cpu", **variables  # noqa: S104
        )  # fmt: skip
        yield place
        place.tuneflow("down")


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--host", "0.0.0.0"], {}, "Set a password first: export PREFECT_SERVER_API_AUTH_STRING=user:password"),  # noqa: S104
        (["--cpu-runs", "11", "--gpu-group", "cpu"], {}, "a SQLite server holds about 10"),
        (["--database", "postgresql+asyncpg://me:hidden@127.0.0.1:9/prefect"], {}, "me@127.0.0.1:9/prefect cannot be used"),
        ([], {DATABASE: "postgresql+asyncpg://me:hidden@127.0.0.1:9/prefect"}, "me@127.0.0.1:9/prefect cannot be used"),
        ([], {DATABASE: "mysql://me:hidden@db/prefect"}, "The database's address starts with mysql://"),
        (["--gpu-group", "77"], {}, "there is no GPU 77"),
        (["--port", "5000"], {}, "--port and --mlflow-port are both 5000"),
        (["--host", "192.0.2.7"], {AUTH: "admin:hidden"}, "--host 192.0.2.7 is not an address of this machine."),
        ([], {AUTH: "hidden"}, "PREFECT_SERVER_API_AUTH_STRING is not of the form user:password"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    arguments: list[str], variables: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in (DATABASE, AUTH):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = [] if "--port" in arguments else ports()
    assert main(["up", "--workspace", str(tmp_path), *given, *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "hidden" not in printed.out + printed.err
    assert not (tmp_path / "services" / "services.json").exists()


@pytest.mark.parametrize(("option", "other"), [("--port", "--mlflow-port"), ("--mlflow-port", "--port")])
def test_a_taken_port_is_named_with_its_holder(option: str, other: str, tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = main(["up", "--workspace", str(tmp_path), option, str(port), other, str(free_port())])
    assert code == 2
    holder = re.escape(f"by {psutil.Process().name()} (process {os.getpid()})")
    assert re.search(rf"Port {port} on 127.0.0.1 is taken {holder}. Choose another with {option}\.", capsys.readouterr().err)
    assert not (tmp_path / "services" / "services.json").exists()


def test_down_where_nothing_is_up(tmp_path: Path, capsys: Any) -> None:
    assert main(["down", "--workspace", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"Nothing of {tmp_path} is up.", '{"ended": [], "runs": 0}']
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_everything_answers(first: Place) -> None:
    facts = first.facts
    assert facts["started"] == ["server", "mlflow", "cpu", "gpu-stand-in-1", "gpu-stand-in-2"]
    assert facts["workers"] == ["cpu", "gpu-stand-in-1", "gpu-stand-in-2"]
    assert facts["database"] == f"SQLite, {first.workspace}/server/prefect.db"
    assert healthy(facts["api_url"])
    assert running_api(first.workspace) == facts["api_url"]
    assert httpx.get(f"{facts['mlflow_url']}/health", trust_env=False).text == "OK"
    client = Client(facts["api_url"])
    assert client.workers() == {"cpu": "ONLINE", "gpu-stand-in-1": "ONLINE", "gpu-stand-in-2": "ONLINE"}
    assert client.deployment("finetune")


@pytest.mark.slow
def test_services_listen_on_loopback_alone(first: Place) -> None:
    listening = {
        each.laddr.ip
        for pid in marked(first.mark)
        for each in psutil.Process(pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
def test_up_again_starts_nothing(first: Place) -> None:
    before = set(marked(first.mark))
    done = first.tuneflow("up", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Already up.\n")
    assert json.loads(done.stdout.splitlines()[-1]) == {**first.facts, "started": []}
    assert set(marked(first.mark)) == before


@pytest.mark.slow
def test_other_options_than_what_is_up_are_refused(first: Place) -> None:
    done = first.tuneflow("up", "--cpu-runs", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--cpu-runs is 3, but what is up was started with 2. End that first: tuneflow down." in done.stderr


@pytest.mark.slow
def test_a_service_that_died_is_started_again(first: Place) -> None:
    services = read_services(first.workspace)
    worker = services.daemon("gpu-stand-in-2") if services else None
    assert services
    assert worker
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: not carries(worker.pid, services.mark), 10)
    done = first.tuneflow("up", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["started"] == ["gpu-stand-in-2"]
    assert Client(first.facts["api_url"]).workers()["gpu-stand-in-2"] == "ONLINE"


@pytest.mark.slow
def test_the_pages_stay_at_home(first: Place) -> None:
    answer = httpx.get(f"{first.facts['ui_url']}/v2/", headers={"Accept": "text/html"}, trust_env=False)
    assert answer.status_code == 200
    host = first.facts["ui_url"].removeprefix("http://")
    assert f"connect-src 'self' ws://{host} wss://{host}" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    settings = httpx.get(f"{first.facts['ui_url']}/ui-settings", trust_env=False).json()
    assert (settings["api_url"], settings["csrf_enabled"]) == ("/api", True)
    # No page of another site may read the API.
    other = httpx.get(f"{first.facts['api_url']}/health", headers={"Origin": "http://evil.example"}, trust_env=False)
    assert "access-control-allow-origin" not in other.headers
    assert httpx.get(f"{first.facts['api_url']}/health", headers={"Host": "evil.example"}, trust_env=False).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("page", ["/v2/deployments", "/deployments"])
def test_a_browser_shows_the_pages(first: Place, page: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("there is no Chromium here")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [browser, *options, "--virtual-time-budget=20000", "--dump-dom", first.facts["ui_url"] + page],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "finetune-nightly" in done.stdout  # read from the API by the page itself
    blocked = set(re.findall(r"https://([\w.-]+)[^\n]*Content Security Policy", done.stderr))
    assert all("amplitude" in host for host in blocked), blocked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_", "sentences"),
    [
        (
            {"name": "a", "base_model": {"uri": "x"}, "data": {"source": "y"}, "training": {"epoch": 3, "batch_size": -1}},
            ["Unknown training key 'epoch'. Did you mean 'epochs'?", "training.batch_size is -1, expected"],
        ),
        ({"name": "a", "data": {"source": "y"}}, ["base_model is missing: it has no default."]),
        (
            {"name": "a", "base_model": {"uri": "x"}, "data": {"source": "y", "columns": EMPTY_FIELD}, "seed": "?"},
            ["seed is '?', expected a whole number"],
        ),
    ],
)  # fmt: skip
def test_a_request_that_is_refused_is_refused_in_our_words(
    first: Place, request_: dict[str, Any], sentences: list[str]
) -> None:
    client = Client(first.facts["api_url"])
    answer = client.post(f"/deployments/{client.deployment('finetune')}/create_flow_run", {"parameters": {"request": request_}})
    assert answer.status_code == 409
    detail = answer.json()["detail"]
    assert [sentence for sentence in sentences if sentence not in detail] == []
    assert "Validation failed" not in detail
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow
def test_postgresql_and_a_password(second: Place) -> None:
    api = second.facts["api_url"]
    assert re.fullmatch(r"PostgreSQL, prefect@127\.0\.0\.1:\d+/prefect", second.facts["database"])
    assert httpx.get(f"{api}/work_pools/cpu", trust_env=False).status_code == 401
    assert httpx.get(f"{api}/csrf-token?client=x", trust_env=False).status_code == 401
    assert httpx.get(f"{api}/health", trust_env=False).status_code == 200
    client = Client(api, PASSWORD)
    assert client.workers() == {"cpu": "ONLINE", "gpu-stand-in-1": "ONLINE"}
    assert client.deployment("finetune")
    assert not (second.workspace / "server" / "prefect.db").exists()
    written = "".join(path.read_text(errors="replace") for path in (second.workspace / "services").iterdir() if path.is_file())
    assert "hidden-word" not in written
    assert "open-sesame" not in written
    commands = [" ".join(psutil.Process(pid).cmdline()) for pid in marked(second.mark)]
    assert not [command for command in commands if "hidden-word" in command or "open-sesame" in command]


@pytest.mark.slow
def test_mlflow_stays_on_loopback_when_the_server_does_not(second: Place) -> None:
    mlflow = int(second.facts["mlflow_url"].rpartition(":")[2])
    found = {
        each.laddr.ip
        for pid in marked(second.mark)
        for each in psutil.Process(pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == mlflow
    }
    assert found == {"127.0.0.1"}


@pytest.mark.slow
def test_what_needs_a_secret_again_says_so(second: Place) -> None:
    services = read_services(second.workspace)
    worker = services.daemon("cpu") if services else None
    assert worker
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: not carries(worker.pid, second.mark), 10)
    done = tuneflow("up", "--workspace", str(second.workspace))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"have a password. Set {AUTH} to it again." in done.stderr
    done = tuneflow("up", "--workspace", str(second.workspace), **{AUTH: PASSWORD})
    assert done.returncode == 2
    assert f"use {second.facts['database']}. Set {DATABASE} to it again." in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "message"),
    [
        (
            lambda folder: (folder / "mlflow.db").write_text("this is no database"),
            [],
            1,
            r"mlflow ended while it started\. What it said last, from \S+mlflow\.log:\n[^$]*file is not a database",
        ),
        (
            lambda _: None,
            ["--notify", "slack-webhook/missing"],
            2,
            r"tuneflow setup ended with status 2[^$]*slack-webhook/missing",
        ),
    ],
    ids=["a service that dies", "a setup that fails"],
)
def test_a_start_that_fails_half_way_leaves_nothing(
    spoil: Callable[[Path], object], arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    spoil(tmp_path)
    before = {each.pid for each in psutil.process_iter() if _in(each, tmp_path)}
    done = tuneflow("up", "--workspace", str(tmp_path), *ports(), "--gpu-group", "cpu", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "services" / "services.json").exists()
    assert {each.pid for each in psutil.process_iter() if _in(each, tmp_path)} == before


def _in(process: psutil.Process, workspace: Path) -> bool:
    """Whether a process belongs to a workspace."""
    try:
        return str(process.environ().get("TUNEFLOW_WORKSPACE")) == str(workspace)
    except psutil.Error:
        return False


@pytest.mark.slow
def test_down_ends_this_workspace_with_its_runs_and_nothing_else(first: Place, second: Place, tmp_path: Path) -> None:
    place = tmp_path / "started"
    (tmp_path / "slow.py").write_text(SLOW_FLOW)
    environment = {**user_environment(), "PREFECT_API_URL": first.facts["api_url"], "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", DEPLOY, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    client = Client(first.facts["api_url"])
    path = f"/deployments/{client.deployment('slow')}/create_flow_run"
    run = client.post(path, {"parameters": {"place": str(place)}}).raise_for_status().json()
    wait_for(place.exists, 120, "the run starts on a worker")
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={"TUNEFLOW_SERVICE": "other"})
    mark = first.mark
    try:
        done = first.tuneflow("down", "--json")
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ended": ["server", "mlflow", "cpu", "gpu-stand-in-1", "gpu-stand-in-2"], "runs": 1,
    }  # fmt: skip
    assert "1 run under way ended too. Start the same request again, and it goes on where it stopped." in done.stdout
    assert (tmp_path / "checkpoint").read_text() == "whole"
    assert marked(mark) == []
    assert running_api(first.workspace) == ""
    assert healthy(second.facts["api_url"])
    assert state_in_file(first.workspace / "server" / "prefect.db", run["id"]) == "CRASHED"
    assert first.tuneflow("down").stdout == f"Nothing of {first.workspace} is up.\n"


def state_in_file(database: Path, run: str) -> str:
    import sqlite3

    with sqlite3.connect(database) as connection:
        return str(connection.execute("SELECT state_type FROM flow_run WHERE id = ?", [run]).fetchone()[0])


@pytest.mark.slow
def test_down_ends_the_other_workspace_too(second: Place) -> None:
    mark = second.mark
    done = second.tuneflow("down")
    assert done.returncode == 0, done.stderr
    assert marked(mark) == []
    assert not healthy(second.facts["api_url"])
