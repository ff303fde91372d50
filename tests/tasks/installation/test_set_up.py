"""`tuneflow setup` against a real server: made once, kept afterwards, and the user's switches left alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

from tasks.errors import StageError
from tasks.installation.steps import deploy
from tests.servers import ROOT, free_port, prefect_server, user_environment
from tests.tasks.installation.conftest import Api

pytestmark = pytest.mark.slow
POOLS = {"cpu": "process", "gpu": "process", "k8s-gpu": "kubernetes"}


@pytest.fixture(scope="module")
def first(api: Api) -> dict[tuple[str, str], str]:
    """What the first set-up said."""
    return api.setup()


def counts(api: Api) -> dict[str, int]:
    kinds = ("work_pools", "automations", "deployments", "block_types", "block_schemas", "v2/concurrency_limits")
    return {kind: len(api.call("POST", f"/{kind}/filter", {})) for kind in kinds}


def test_the_first_time_everything_is_made(api: Api, first: dict[tuple[str, str], str]) -> None:
    assert set(first.values()) == {"made"}
    pools = {pool["name"]: pool for pool in api.call("POST", "/work_pools/filter", {})}
    assert {name: pool["type"] for name, pool in pools.items()} == POOLS
    assert {name: pool["concurrency_limit"] for name, pool in pools.items()} == {"cpu": 4, "gpu": 1, "k8s-gpu": 1}
    assert not pools["cpu"]["base_job_template"]["variables"]["properties"]["stream_output"]["default"]
    limit = api.call("GET", "/v2/concurrency_limits/gpu")
    assert (limit["limit"], limit["active"]) == (1, True)
    slugs = {block["slug"] for block in api.call("POST", "/block_types/filter", {})}
    assert {"tuneflow-mlflow-tracking", "tuneflow-store", "tuneflow-model-hub"} <= slugs
    asked = yaml.safe_load((ROOT / "deployments.yaml").read_text(encoding="utf-8"))["deployments"]
    assert api.names("deployments") == sorted(deployment["name"] for deployment in asked)
    found = {found["name"]: found for found in api.call("POST", "/deployments/filter", {})}
    assert found["finetune"]["job_variables"]["env"]["TUNEFLOW_WORKSPACE"] == str(api.workspace)


def test_the_second_time_everything_is_kept(api: Api, first: dict[tuple[str, str], str]) -> None:
    before = counts(api)
    again = api.setup()
    assert set(again) == set(first)
    assert set(again.values()) == {"kept"}
    assert counts(api) == before


def test_other_limits_and_another_workspace_are_changes(api: Api, first: dict[tuple[str, str], str]) -> None:
    other = Api(api.environment, api.workspace.with_name("other"))
    changed = {item for item, outcome in other.setup("--cpu-runs", "2", "--gpu-devices", "3").items() if outcome == "changed"}
    deployments = {item for item in first if item[0] == "deployment"}
    assert changed == {("work pool", "cpu"), ("limit", "gpu"), *deployments}
    assert api.call("GET", "/work_pools/cpu")["concurrency_limit"] == 2
    assert api.call("GET", "/v2/concurrency_limits/gpu")["limit"] == 3
    assert {item for item, outcome in api.setup().items() if outcome == "changed"} == changed


def test_what_a_user_switched_stays_so(api: Api, first: dict[tuple[str, str], str]) -> None:
    crash = api.automation("crash zombies")
    api.call("PATCH", f"/automations/{crash['id']}", {"enabled": False})
    nightly = next(found for found in api.call("POST", "/deployments/filter", {}) if found["name"] == "finetune-nightly")
    schedule = f"/deployments/{nightly['id']}/schedules"
    api.call("PATCH", f"{schedule}/{nightly['schedules'][0]['id']}", {"active": True})
    api.call("PATCH", "/work_pools/cpu", {"description": "mine", "is_paused": True})
    assert set(api.setup().values()) == {"kept"}
    assert not api.automation("crash zombies")["enabled"]
    assert [found["active"] for found in api.call("GET", schedule)] == [True]
    pool = api.call("GET", "/work_pools/cpu")
    assert (pool["description"], pool["is_paused"]) == ("mine", True)


def test_an_automation_that_differs_is_put_right_and_keeps_its_id_and_its_switch(
    api: Api, first: dict[tuple[str, str], str]
) -> None:
    resume = api.automation("resume crashed runs")
    core = {key: resume[key] for key in ("name", "description", "tags", "actions")}
    trigger = {key: value for key, value in resume["trigger"].items() if key != "id"}
    api.call("PUT", f"/automations/{resume['id']}", {**core, "enabled": False, "trigger": {**trigger, "within": 90}})
    outcomes = api.setup()
    assert outcomes.pop(("automation", "tuneflow: resume crashed runs")) == "changed"
    assert set(outcomes.values()) == {"kept"}
    mended = api.automation("resume crashed runs")
    assert (mended["id"], mended["enabled"], mended["trigger"]["within"]) == (resume["id"], False, 60)


def test_a_pool_of_another_type_is_an_error(api: Api, first: dict[tuple[str, str], str]) -> None:
    api.call("DELETE", "/work_pools/k8s-gpu")
    api.call("POST", "/work_pools/", {"name": "k8s-gpu", "type": "docker"})
    done = api.run()
    assert done.returncode == 2
    assert "The work pool 'k8s-gpu' is of type 'docker', but type 'kubernetes' is needed" in done.stderr
    assert "prefect work-pool delete k8s-gpu" in done.stderr
    api.call("DELETE", "/work_pools/k8s-gpu")
    assert api.setup()[("work pool", "k8s-gpu")] == "made"


def test_a_block_that_is_not_there_is_an_error_that_lists_those_which_are(api: Api, first: dict[tuple[str, str], str]) -> None:
    done = api.run("--notify", "slack-webhook/team")
    assert done.returncode == 2
    assert "--notify 'slack-webhook/team' names no saved notification block. There are: none. Make one" in done.stderr
    assert done.stdout == ""


SMALL = """
from prefect import flow

@flow
def small(rows: int = 1) -> None:
    pass
"""
FILE = """
deployments:
  - name: small
    description: Does nothing.
    entrypoint: {folder}/small.py:small
    work_pool: {{ name: {pool} }}
    pull: [{{ prefect.deployments.steps.set_working_directory: {{ directory: {folder} }} }}]
    triggers:
      - {{ type: event, name: on data, match: {{ prefect.resource.id: "data.*" }}, expect: [data.published] }}
"""


def test_triggers_do_not_pile_up_and_a_failure_to_deploy_is_an_error(
    api: Api, first: dict[tuple[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in api.environment.items():
        if name.startswith("PREFECT_"):
            monkeypatch.setenv(name, value)
    (tmp_path / "small.py").write_text(SMALL, encoding="utf-8")
    file = tmp_path / "deployments.yaml"
    file.write_text(FILE.format(folder=tmp_path, pool="cpu"), encoding="utf-8")
    count = len(api.names("automations"))
    with SyncPrefectClient(api=api.environment["PREFECT_API_URL"]) as client:
        assert [item.outcome for item in deploy(client, api.workspace, file)] == ["made"]
        trigger = next(found for found in api.call("POST", "/automations/filter", {}) if found["name"] == "on data")
        api.call("PATCH", f"/automations/{trigger['id']}", {"enabled": False})
        assert [item.outcome for item in deploy(client, api.workspace, file)] == ["kept"]
        assert len(api.names("automations")) == count + 1
        trigger = next(found for found in api.call("POST", "/automations/filter", {}) if found["name"] == "on data")
        assert not trigger["enabled"]
        file.write_text(FILE.format(folder=tmp_path, pool="nowhere"), encoding="utf-8")
        with pytest.raises(StageError, match="small is on the pool 'cpu', not on 'nowhere'"):
            deploy(client, api.workspace, file)
        file.write_text(FILE.format(folder=tmp_path, pool="cpu"), encoding="utf-8")
        (tmp_path / "small.py").write_text("import nothing_like_it", encoding="utf-8")
        with pytest.raises(StageError, match="exit code 1: small is still the one from before"):
            deploy(client, api.workspace, file)
        deployments = client.read_deployments(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=["small"])))
        client.delete_deployment(deployments[0].id)


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        ({}, [], "PREFECT_API_URL is not set, so that there is no Prefect API to set up. Start a server with `tuneflow up`"),
        (
            {"PREFECT_API_URL": f"http://user:secret@127.0.0.1:{free_port()}/api"},
            [],
            "No Prefect API answers at http://127.0.0.1:",
        ),
        ({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, ["--cpu-runs", "0"], "--cpu-runs 0: Input should be greater"),
    ],
    ids=["no address", "nothing listens", "no runs"],
)
def test_errors_without_a_server(tmp_path: Any, variables: dict[str, str], options: list[str], message: str) -> None:
    command = [sys.executable, "-m", "flows.cli", "setup", "--workspace", str(tmp_path / "w"), *options]
    environment = {**user_environment(), **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "secret" not in done.stderr


def test_a_server_with_a_password(tmp_path: Any) -> None:
    with prefect_server(tmp_path / "server", PREFECT_SERVER_API_AUTH_STRING="user:right") as environment:
        refused = Api({**environment, "PREFECT_API_AUTH_STRING": "user:wrong"}, tmp_path / "workspace").run()
        assert refused.returncode == 2
        assert "refuses the log-in (status 401). Set PREFECT_API_AUTH_STRING" in refused.stderr
        made = Api({**environment, "PREFECT_API_AUTH_STRING": "user:right"}, tmp_path / "workspace").setup("--gpu-runs", "2")
        assert set(made.values()) == {"made"}
