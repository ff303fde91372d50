"""A real Prefect server, a real worker, the shipped deployments."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from mlflow import MlflowClient

from tasks.models import weights_digest
from tasks.process import companion, python_module
from tasks.tracking import Tracker
from tests.flows.conftest import ROOT, environment

pytestmark = pytest.mark.slow
PREFECT = str(Path(sys.executable).with_name("prefect"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Iterator[dict[str, str]]:
    """The environment of a server on loopback that answers."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    variables = {
        **environment(), "PREFECT_HOME": str(folder), "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "TUNEFLOW_HOME": str(ROOT),
        "TUNEFLOW_WORKSPACE": str(workspace),
    }  # fmt: skip
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([PREFECT, "server", "start"], env=variables, stdout=log, stderr=log)
    try:
        wait_until_healthy(variables["PREFECT_API_URL"], lambda: process.poll() is None)
        yield variables
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def tracking(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server, saved as the block `team`."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [*python_module("mlflow"), "server", *options, "--backend-store-uri", f"sqlite:///{folder}/runs.db"]
    address = f"http://127.0.0.1:{port}"
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with companion(command, environment=quiet, log=folder / "server.log", grace_seconds=5) as alive:
        wait_until_healthy(address, alive)
        save = f"from blocks.tracking import MlflowTracking; MlflowTracking(tracking_uri={address!r}).save('team')"
        subprocess.run([sys.executable, "-c", save], cwd=ROOT, env=server, check=True, capture_output=True)
        yield address


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until_healthy(address: str, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and alive():
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError("the server did not start")


def prefect(server: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([PREFECT, *arguments], cwd=ROOT, env=server, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployed(server: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The deployments, as the server holds them after the README's command."""
    prefect(server, "work-pool", "create", "cpu", "--type", "process")
    prefect(server, "--no-prompt", "deploy", "--all", "--prefect-file", "deployments.yaml")
    found = httpx.post(f"{server['PREFECT_API_URL']}/deployments/filter", json={}).json()
    return {deployment["name"]: deployment for deployment in found}


def test_every_deployment_of_the_file_is_there_and_listed(server: dict[str, str], deployed: dict[str, Any]) -> None:
    asked = yaml.safe_load((ROOT / "deployments.yaml").read_text())["deployments"]
    assert set(deployed) == {deployment["name"] for deployment in asked}
    assert not any(schedule["active"] for schedule in deployed["finetune-nightly"]["schedules"])
    listed = json.loads(prefect(server, "deployment", "ls", "-o", "json"))
    assert {deployment["name"] for deployment in listed} == set(deployed)


def test_the_server_refuses_an_unknown_key_and_a_value_out_of_range(server: dict[str, str], deployed: dict[str, Any]) -> None:
    address = f"{server['PREFECT_API_URL']}/deployments/{deployed['finetune']['id']}/create_flow_run"
    request = {"name": "x", "base_model": {"uri": "y"}, "data": {"source": "z"}}
    for change in ({"trainning": {}}, {"training": {"epochs": -1}}, {"method": {"kind": "lora", "rank": 0}}):
        answer = httpx.post(address, json={"parameters": {"request": {**request, **change}}})
        assert answer.status_code == 409, answer.text
    assert "epochs" in httpx.post(address, json={"parameters": {"request": {**request, "training": {"epochs": -1}}}}).text


def test_a_process_worker_runs_the_quickstart_deployment_to_completed(
    server: dict[str, str], tracking: str, deployed: dict[str, Any], tmp_path: Path
) -> None:
    request = deployed["quickstart"]["parameters"]["request"]
    # Another name: other tests look at what the quickstart itself left.
    request = {**request, "name": "deployed", "tracking": "team", "training": {**request["training"], "max_steps": 15}}
    address = server["PREFECT_API_URL"]
    answer = httpx.post(
        f"{address}/deployments/{deployed['quickstart']['id']}/create_flow_run",
        json={"parameters": {"request": request}, "state": {"type": "SCHEDULED"}},
    )
    run_id = answer.json()["id"]
    worker = [PREFECT, "worker", "start", "--pool", "cpu", "--run-once", "--limit", "1"]
    done = subprocess.run(worker, cwd=tmp_path, env=server, capture_output=True, text=True, timeout=600, check=False)
    run = httpx.get(f"{address}/flow_runs/{run_id}").json()
    assert run["state"]["name"] == "Completed", done.stdout + done.stderr
    tasks = httpx.post(f"{address}/task_runs/filter", json={"limit": 200}).json()
    states = {task["name"]: task["state"]["name"] for task in tasks}
    assert states["clean deployed"] == "Cached"
    assert states["train deployed"] == "Completed"
    artifact = httpx.post(f"{address}/artifacts/filter", json={}).json()[0]
    assert artifact["description"].startswith("Released: deployed beats models/quickstart-base")
    logs = httpx.post(f"{address}/logs/filter", json={"limit": 200, "sort": "TIMESTAMP_DESC"}).json()
    assert any(log["message"].startswith("train: done in") for log in logs)
    result = json.loads((Path(server["TUNEFLOW_WORKSPACE"]) / "runs" / "deployed" / "result.json").read_text())
    assert result["model"]["steps"] == 15
    client = MlflowClient(tracking)
    version = client.get_model_version_by_alias("deployed", "champion")
    assert version.tags["tuneflow.model_sha256"] == result["model"]["sha256"]
    assert {file.path for file in client.list_artifacts(result["run_id"])} == {"model", "report.html", "result.json"}
    fetched = Tracker(client, "deployed").fetch_model("models:/deployed@champion")
    assert weights_digest(fetched) == weights_digest(Path(result["release"]["exports"][0]["uri"]))


def test_the_form_s_model_has_no_dictionary_or_null_at_its_top_level(deployed: dict[str, Any]) -> None:
    schema = deployed["finetune"]["parameter_openapi_schema"]
    request = schema["definitions"]["FinetuneRequest"]
    for name, field in request["properties"].items():
        assert field.get("type") != "object" or "$ref" in field, name
        assert not any(option.get("type") == "null" for option in field.get("anyOf", [])), name
        assert field.get("title"), name
