"""The shipped deployments on a real server with real workers: from the API, by an event, on a schedule, from another flow."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from tasks.models import weights_digest
from tasks.process import companion, python_module
from tasks.tracking import Tracker
from tests.api import Api
from tests.flows.conftest import ROOT, Installation, small
from tests.servers import BIN, free_port, wait_for, wait_until_healthy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
SHIPPED = yaml.safe_load((ROOT / "deployments.yaml").read_text())["deployments"]


@pytest.fixture(scope="module")
def api(installation: Installation) -> Api:
    return installation.api


@pytest.fixture(scope="module")
def tracking(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server, saved as the block `team`."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    command = [
        *python_module("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--artifacts-destination", str(folder / "artifacts"), "--backend-store-uri", f"sqlite:///{folder}/runs.db",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with companion(command, environment=quiet, log=folder / "server.log", grace_seconds=5) as alive:
        wait_until_healthy(address, alive)
        python(
            installation, f"from blocks.tracking import MlflowTracking; MlflowTracking(tracking_uri={address!r}).save('team')"
        )
        yield address


def python(installation: Installation, code: str) -> str:
    """Run code as another pipeline would, beside the server."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=installation.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path: Path, count: int = 60) -> Path:
    """A small dataset of sums."""
    lines = [
        json.dumps({"instruction": f"What is {a} plus {b}?", "output": f"{a + b}"}) for a in range(count // 6) for b in range(6)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def result_of(installation: Installation, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((installation.workspace / "runs" / name / "result.json").read_text())
    return loaded


def newest_run(api: Api, deployment: str) -> dict[str, Any] | None:
    wanted = {"flow_runs": {"deployment_id": {"any_": [api.deployment(deployment)["id"]]}}, "sort": "EXPECTED_START_TIME_DESC"}
    found = api.post("/flow_runs/filter", wanted)
    return found[0] if found else None


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: str(shipped["name"]))
def test_every_deployment_of_the_file_is_there_as_the_file_says(api: Api, shipped: dict[str, Any]) -> None:
    found = {each["name"]: each for each in api.post("/deployments/filter", {"limit": 100})}[shipped["name"]]
    assert found["work_pool_name"] == shipped["work_pool"]["name"]
    assert found["enforce_parameter_schema"]
    assert found["entrypoint"] == shipped["entrypoint"]
    assert [schedule["active"] for schedule in found["schedules"]] == [False] * len(shipped.get("schedules", []))


def test_training_trials_and_evaluation_are_on_gpu_and_what_waits_is_on_cpu() -> None:
    pools = {each["name"]: each["work_pool"]["name"] for each in SHIPPED}
    on_gpu = {name for name, pool in pools.items() if pool == "gpu"}
    assert on_gpu == {"train-model", "train-trial", "assess-model", "release-model"}
    assert set(pools.values()) == {"cpu", "gpu"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trainning": {}}, "Unknown key 'trainning'. Did you mean 'training'?"),
        ({"training": {"epochs": -1}}, "training.epochs is -1, expected above 0"),
        ({"method": {"kind": "lora", "rank": 0}}, "method.rank is 0, expected at least 1"),
        ({"name": "No Slug"}, "name is 'No Slug': use 1 to 63 lower-case letters, digits and dashes"),
    ],
)
def test_the_server_refuses_what_the_command_line_refuses_in_the_same_words(
    api: Api, change: dict[str, Any], said: str
) -> None:
    path = f"/deployments/{api.deployment('finetune/finetune')['id']}/create_flow_run"
    request = {"name": "x", "base_model": {"uri": "y"}, "data": {"source": "z"}, **change}
    answer = api.send(path, {"parameters": {"request": request}})
    assert answer.status_code == 409, answer.text
    assert said in answer.json()["detail"]


def test_the_quickstart_deployment_runs_on_both_pools_and_records_with_a_block(
    installation: Installation, api: Api, tracking: str
) -> None:
    request = api.deployment("finetune/quickstart")["parameters"]["request"]
    # Another name: other tests look at what the quickstart itself left.
    request = {**request, "name": "deployed", "tracking": "team", "training": {**request["training"], "max_steps": 15}}
    run_id = api.start("finetune/quickstart", request)
    api.wait(run_id, "Completed", 400)
    pools = {child["name"].split()[0]: child["work_pool_name"] for child in api.children(run_id)}
    assert pools == {"prepare": None, "train": "gpu", "assess": "gpu", "release": "gpu"}
    order = [child["start_time"] for child in api.children(run_id)]
    assert order == sorted(order)  # no device is asked for before the data are tokenized
    artifacts = {each["key"]: each["description"] for each in api.post("/artifacts/filter", {"limit": 200})}
    assert artifacts["report-deployed"].startswith("Released: deployed beats models/quickstart-base")
    assert artifacts["model-deployed"].startswith("lora: 15 steps in ")
    assert artifacts["evaluation-deployed"].startswith("pass: ")
    assert artifacts["data-deployed"].startswith("3,000 rows in, 2,664 kept, 336 dropped; ")
    log = api.log(run_id)
    assert "train: holds stand-in-" in log
    assert "train: done in " in log
    result = result_of(installation, "deployed")
    assert result["model"]["steps"] == 15
    client = MlflowClient(tracking)
    version = client.get_model_version_by_alias("deployed", "champion")
    assert version.tags["tuneflow.model_sha256"] == result["model"]["sha256"]
    assert {file.path for file in client.list_artifacts(result["run_id"])} == {
        "model",
        "report.html",
        "result.json",
        "data.html",
        "tokens.html",
        "dataset.json",
    }
    fetched = Tracker(client, "deployed").fetch_model("models:/deployed@champion")
    assert weights_digest(fetched) == weights_digest(Path(result["release"]["exports"][0]["uri"]))
    assert api.slots() == 0


def test_an_event_of_another_pipeline_starts_a_run_on_the_data_that_it_names(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    address = str(rows(tmp_path / "sums.jsonl"))
    payload = {"name": "published", "address": address}
    resource = {"prefect.resource.id": "dataset.sums"}
    python(
        installation,
        f"from prefect.events import emit_event; emit_event('dataset.published', resource={resource}, payload={payload})",
    )
    wait_for(lambda: newest_run(api, "finetune/finetune-on-dataset"), 120, "the event starts a run")
    run = newest_run(api, "finetune/finetune-on-dataset")
    assert run is not None
    assert run["parameters"]["request"]["data"]["source"] == address
    api.wait(run["id"], "Completed", 400)
    assert result_of(installation, "published")["data"]["raw"]["rows"] == 60


def test_a_schedule_that_is_switched_on_starts_runs(installation: Installation, api: Api, tmp_path: Path) -> None:
    """The file's own schedule is for the night; another one of the same deployment is due every minute."""
    deployment = api.deployment("finetune/finetune-nightly")
    every_minute = {"interval": 60, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"}
    request = small("nightly", rows(tmp_path / "sums.jsonl"))
    schedule = {"schedule": every_minute, "active": True, "parameters": {"request": request}}
    (made,) = api.post(f"/deployments/{deployment['id']}/schedules", [schedule])
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}

    def started() -> list[dict[str, Any]]:
        return [run for run in api.post("/flow_runs/filter", wanted) if run["state"]["type"] not in ("SCHEDULED", "PENDING")]

    wait_for(started, 600, "a scheduled run starts")
    api.delete(f"/deployments/{deployment['id']}/schedules/{made['id']}")
    run = started()[0]
    assert run["auto_scheduled"]
    assert run["parameters"]["request"]["name"] == "nightly"
    prepared = installation.workspace / "runs/nightly/values/data.json"
    wait_for(prepared.is_file, 600, "it works on what the schedule says")
    assert json.loads(prepared.read_text())["raw"]["rows"] == 60
    api.set_state(run["id"], "CANCELLING")
    api.wait(run["id"], "Cancelled", 60)


def test_another_flow_calls_a_deployment_and_waits_for_it(installation: Installation, tmp_path: Path) -> None:
    request = {
        "name": "called",
        "base_model": {"uri": "models/quickstart-base"},
        "data": {"source": str(rows(tmp_path / "a.jsonl"))},
    }
    code = f"""
from prefect import flow
from prefect.deployments import run_deployment

@flow
def another_pipeline():
    return run_deployment("prepare-data/prepare-data", parameters={{"request": {request}}}, poll_interval=1).state.name

print(another_pipeline())
"""
    assert python(installation, code).splitlines()[-1] == "Completed"
    assert (installation.workspace / "runs/called/values/data.json").is_file()


def test_each_stage_can_be_started_alone_and_names_what_it_lacks(installation: Installation, api: Api, tmp_path: Path) -> None:
    missing = api.start("train-model/train-model", {"run": "alone"})
    assert "'alone' has no context" in api.wait(missing, "Failed", 60)["state"]["message"]
    data = {"source": str(rows(tmp_path / "sums.jsonl"))}
    base = {"uri": "models/quickstart-base"}
    evaluation = {"benchmarks": [{"kind": "held_out", "items": 20, "generated_items": 4, "max_new_tokens": 8}]}
    search = {"strategy": {"kind": "random"}, "trials": 2, "parallel": 2, "steps": 5}
    training = {"max_steps": 12, "learning_rate": 0.003}
    stages: list[tuple[str, dict[str, Any], str]] = [
        ("prepare-data", {"name": "alone", "base_model": base, "data": data, "max_length": 64}, "data"),
        ("search-settings", {"run": "alone", "training": training, "search": search}, "search"),
        ("train-model", {"run": "alone", "training": training}, "model"),
        ("assess-model", {"run": "alone", "evaluation": evaluation}, "evaluation"),
    ]
    for name, request, kind in stages:
        api.wait(api.start(f"{name}/{name}", request), "Completed", 180)
        assert (installation.workspace / f"runs/alone/values/{kind}.json").is_file()
    found = json.loads((installation.workspace / "runs/alone/values/search.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["done", "done"]
    verdict = json.loads((installation.workspace / "runs/alone/values/evaluation.json").read_text())["verdict"]["status"]
    released = api.start("release-model/release-model", {"run": "alone"})
    if verdict == "pass":
        api.wait(released, "Completed", 120)
    else:
        assert "is not released: its verdict is" in api.wait(released, "Failed", 120)["state"]["message"]


def test_nothing_waits_for_ever_where_every_limit_is_one(installation: Installation, api: Api, tmp_path: Path) -> None:
    def limit(count: int, devices: int) -> None:
        for pool in ("cpu", "gpu"):
            api.patch(f"/work_pools/{pool}", {"concurrency_limit": count})
        api.patch("/v2/concurrency_limits/gpu", {"limit": devices})

    search = {"strategy": {"kind": "random"}, "trials": 2, "parallel": 2, "steps": 4}
    limit(1, 1)
    try:
        run_id = api.start("finetune/finetune", small("narrow", rows(tmp_path / "sums.jsonl"), search=search))
        api.wait(run_id, "Completed", 400)
    finally:
        limit(4, 3)
    assert [trial["status"] for trial in result_of(installation, "narrow")["search"]["trials"]] == ["done", "done"]


def test_no_answer_in_time_is_a_no(installation: Installation, api: Api) -> None:
    """The run schedules the no itself, for when the hours are over; here it comes at once."""
    request = small("unanswered", "quickstart:", release={"approval": {"required": True, "hours": 2}})
    run_id = api.start("finetune/finetune", request)
    api.wait(run_id, "Suspended", 300)
    assert api.slots() == 0
    deployment = api.deployment("expire-approval/expire-approval")["id"]
    expiring = api.post("/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})
    (scheduled,) = [run for run in expiring if run["parameters"] == {"flow_run_id": run_id}]
    hours = datetime.fromisoformat(scheduled["expected_start_time"]) - datetime.now(UTC)
    assert 1.9 < hours.total_seconds() / 3600 <= 2
    path = f"/deployments/{deployment}/create_flow_run"
    api.post(path, {"parameters": {"flow_run_id": run_id}, "state": {"type": "SCHEDULED"}})
    api.wait(run_id, "Completed", 300)
    result = result_of(installation, "unanswered")
    assert (result["status"], result["approval"]["granted"], result["approval"]["by"]) == ("rejected", False, "")
    assert result["rejected_reasons"][0] == "The release was not approved: nobody answered in time."
    trainings = [child for child in api.children(run_id) if child["name"].startswith("train")]
    assert len(trainings) == 1  # what was done before it was suspended is not done again
    assert not (installation.workspace / "models" / "unanswered").exists()


def test_a_missing_limit_is_an_error_and_not_no_limit(installation: Installation) -> None:
    code = """
import tasks.orchestration.steps as steps
steps.GPU_LIMIT = "nowhere"
try:
    with steps.gpu_slots(1):
        print("held")
except Exception as error:
    print(type(error).__name__, error)
"""
    assert python(installation, code).startswith("ServiceError Prefect gives no slot of its limit 'nowhere'")


def test_maintenance_says_what_it_would_remove_and_removes_nothing(installation: Installation, api: Api) -> None:
    before = sorted(installation.workspace.glob("cache/*/*/manifest.json"))
    api.wait(api.start("maintenance/maintenance", {"dry_run": True, "cache_days": 1}), "Completed", 90)
    assert sorted(installation.workspace.glob("cache/*/*/manifest.json")) == before
    assert any(each["key"] == "maintenance" for each in api.post("/artifacts/filter", {"limit": 200}))


def test_a_command_in_the_same_workspace_uses_the_server_and_says_so(
    installation: Installation, api: Api, tmp_path: Path
) -> None:
    request = tmp_path / "request.yaml"
    request.write_text(yaml.safe_dump(small("beside", rows(tmp_path / "sums.jsonl"))))
    done = subprocess.run(
        [str(BIN / "tuneflow"), "run", str(request), "--workspace", str(installation.workspace)],
        cwd=tmp_path, env={k: v for k, v in installation.environment.items() if not k.startswith("PREFECT_")},
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert f"Prefect: the server of `tuneflow up` at {installation.address}" in done.stderr
    (run,) = [each for each in api.post("/flow_runs/filter", {"limit": 200}) if each["name"] == "beside"]
    assert run["tags"] == ["tuneflow"]
    assert {tag for child in api.children(run["id"]) for tag in child["tags"]} == {"tuneflow-part"}


@pytest.mark.parametrize(
    "name", ["finetune", "prepare-data", "train-model", "assess-model", "release-model", "search-settings"]
)
def test_no_form_has_a_dictionary_or_null_at_its_top_level(api: Api, name: str) -> None:
    schema = api.deployment(f"{name}/{name}")["parameter_openapi_schema"]
    (reference,) = schema["properties"]["request"].get("allOf", [schema["properties"]["request"]])
    fields = schema["definitions"][reference["$ref"].rsplit("/", 1)[1]]["properties"]
    for field, content in fields.items():
        assert content.get("type") != "object" or "$ref" in content, field
        assert not any(option.get("type") == "null" for option in content.get("anyOf", [])), field
        assert content.get("title"), field
