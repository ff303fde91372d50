"""Cancel, kill, crash: what is left running, what the states say, which slots are free, and that the work goes on.

Every row kills for real: a real server, real workers, real training processes, counted by what they carry in their environment.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import psutil
import pytest

from tasks.process import carrying
from tests.flows.conftest import Installation, command, environment, small, write_request
from tests.servers import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def training_of(name: str, steps: int = 4000) -> dict[str, Any]:
    """A training of minutes, or of so many steps. Each name has a rate of its own: equal trainings would share their cache."""
    rate = 1e-4 * (1 + crc32(name.encode()) % 1000 / 1e5)
    return {"max_steps": steps, "max_length": 256, "learning_rate": rate, "advanced": {"checkpoint_steps": 20}}


def request_of(name: str, steps: int = 4000) -> dict[str, Any]:
    return small(name, "quickstart:", training=training_of(name, steps))


def record(workspace: Path, name: str, kind: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((workspace / "runs" / name / "values" / f"{kind}.json").read_text())
    return loaded


def tagged(workspace: Path, name: str) -> list[int]:
    """The processes that compute for the run: they carry the id of its run in MLflow."""
    try:
        return carrying(f"TUNEFLOW_RUN={record(workspace, name, 'context')['run_id']}")
    except FileNotFoundError:
        return []


def engine_of(run_id: str) -> psutil.Process:
    """The process that carries out a flow run: the topmost of those that say so."""
    found = [psutil.Process(pid) for pid in carrying(f"PREFECT__FLOW_RUN_ID={run_id}")]
    (top,) = [process for process in found if process.ppid() not in {other.pid for other in found}]
    return top


def checkpoints(workspace: Path) -> set[Path]:
    return set(workspace.glob("checkpoints/*/step-*/complete.json"))


def training(installation: Installation, name: str, run_id: str, seconds: float = 600) -> str:
    """Wait until the run trains and has written a checkpoint; the id of the flow run that trains."""
    before = checkpoints(installation.workspace)
    try:
        wait_for(lambda: checkpoints(installation.workspace) - before, seconds, f"{name} trains")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{installation.api.log(run_id)}") from error
    child = installation.api.child(run_id, "train")
    return str(child["id"]) if child else run_id


def prepared(installation: Installation, name: str) -> None:
    """The data of a run, as the deployment prepare-data leaves them; prepared once, since all these runs have the same."""
    runs = installation.workspace / "runs"
    if not (runs / "prepared" / "values").is_dir():
        request = request_of("prepared")
        asked = {key: request[key] for key in ("name", "base_model", "data")} | {"max_length": 256}
        installation.api.wait(installation.api.start("prepare-data/prepare-data", asked), "Completed", 120)
    shutil.copytree(runs / "prepared" / "values", runs / name / "values")


def within(seconds: float, condition: Callable[[], object], what: str) -> float:
    started = time.monotonic()
    wait_for(condition, seconds, what)
    return time.monotonic() - started


def test_cancelling_a_run_in_the_middle_of_training_leaves_a_checkpoint_and_nothing_else(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    run_id = api.start("finetune/finetune", request_of("cancelled"))
    child = training(installation, "cancelled", run_id)
    assert api.slots() == 1
    assert len(tagged(workspace, "cancelled")) >= 3  # shim, launcher, one rank at least
    before = checkpoints(workspace)
    api.set_state(run_id, "CANCELLING")
    within(30, lambda: not tagged(workspace, "cancelled"), "nothing computes")
    api.wait(run_id, "Cancelled", 30)
    api.wait(child, "Cancelled", 30)
    assert api.slots() == 0
    assert checkpoints(workspace) - before, "no checkpoint was written on the way out"


def test_cancelling_a_search_stops_its_three_running_trials_together(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    prepared(installation, "searched")
    search = {"strategy": {"kind": "random"}, "trials": 6, "parallel": 3, "steps": 2000}
    run_id = api.start(
        "search-settings/search-settings", {"run": "searched", "training": training_of("searched"), "search": search}
    )

    def running() -> list[dict[str, Any]]:
        return [child for child in api.children(run_id) if child["state"]["name"] == "Running"]

    wait_for(lambda: len(running()) == 3 and len(list((workspace / "runs/searched/trials").glob("*/logs/train.log"))) == 3, 600)
    wait_for(lambda: api.slots() == 3, 240, "each trial holds a slot")
    api.set_state(run_id, "CANCELLING")
    within(30, lambda: not tagged(workspace, "searched"), "no trial computes")
    api.wait(run_id, "Cancelled", 30)
    wait_for(lambda: {child["state"]["name"] for child in api.children(run_id)} == {"Cancelled"}, 30)
    assert api.slots() == 0


def test_a_killed_engine_leaves_nothing_running_and_a_retry_goes_on_from_the_checkpoint(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    prepared(installation, "retried")
    run_id = api.start("train-model/train-model", {"run": "retried", "training": training_of("retried", 240)})
    training(installation, "retried", run_id)
    engine_of(run_id).kill()
    within(30, lambda: not tagged(workspace, "retried"), "nothing computes")
    api.wait(run_id, "Crashed", 30)
    within(90, lambda: api.slots() == 0, "the slot is free")
    api.set_state(run_id, "SCHEDULED", "AwaitingRetry")  # what the button Retry does
    api.wait(run_id, "Completed", 240)
    model = record(workspace, "retried", "model")
    assert model["resumed_from"] >= 20
    assert model["steps"] == 240


def test_a_crashed_run_is_taken_up_again_by_itself_with_its_finished_stages_cached(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    run_id = api.start("finetune/finetune", request_of("resumed", 160))
    child = training(installation, "resumed", run_id)
    engine_of(run_id).kill()
    wait_for(lambda: "Crashed" in api.history(run_id), 240)
    api.wait(run_id, "Completed", 300)
    result = json.loads((workspace / "runs/resumed/result.json").read_text())
    assert result["model"]["steps"] == 160
    assert {step["step"] for step in result["steps"] if step["cached"]} >= {"load", "validate", "clean", "split", "tokenize"}
    trainings = [each for each in api.children(run_id) if each["name"].startswith("train")]
    assert child in {each["id"] for each in trainings}
    assert result["model"]["resumed_from"] > 0 or len(trainings) == 1  # taken up again, or never interrupted
    assert not tagged(workspace, "resumed")


def test_a_part_that_crashes_is_started_again_by_its_run(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    run_id = api.start("finetune/finetune", request_of("parted", 160))
    child = training(installation, "parted", run_id)
    engine_of(child).kill()
    api.wait(child, "Crashed", 30)
    api.wait(run_id, "Completed", 300)
    trainings = [each["state"]["name"] for each in api.children(run_id) if each["name"].startswith("train")]
    assert trainings == ["Crashed", "Completed"]
    assert record(workspace, "parted", "model")["resumed_from"] >= 20
    assert "crashed" in api.log(run_id)


def test_a_killed_worker_orphans_nothing_and_its_run_goes_on(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    prepared(installation, "abandoned")
    run_id = api.start("train-model/train-model", {"run": "abandoned", "training": training_of("abandoned", 160)})
    training(installation, "abandoned", run_id)
    engine = engine_of(run_id)
    worker = engine.parent()
    assert worker is not None
    worker.kill()
    api.wait(run_id, "Completed", 240)
    assert record(workspace, "abandoned", "model")["steps"] == 160
    assert not tagged(workspace, "abandoned")
    within(90, lambda: api.slots() == 0, "the slot is free")
    installation.up()  # starts the worker that is missing


def test_a_run_whose_worker_is_gone_can_still_be_cancelled(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    prepared(installation, "unwatched")
    run_id = api.start("train-model/train-model", {"run": "unwatched", "training": training_of("unwatched")})
    training(installation, "unwatched", run_id)
    worker = engine_of(run_id).parent()
    assert worker is not None
    worker.kill()
    api.set_state(run_id, "CANCELLING")
    within(30, lambda: not tagged(workspace, "unwatched"), "nothing computes")
    api.wait(run_id, "Cancelled", 30)
    within(90, lambda: api.slots() == 0, "the slot is free")
    installation.up()


def test_a_killed_server_that_starts_again_loses_no_run_and_none_is_trained_twice(installation: Installation) -> None:
    api, workspace = installation.api, installation.workspace
    run_id = api.start("finetune/finetune", request_of("patient", 240))
    training(installation, "patient", run_id)
    installation.kill("server")
    time.sleep(5)
    installation.up()
    api.wait(run_id, "Completed", 300)
    result = json.loads((workspace / "runs/patient/result.json").read_text())
    assert result["model"]["resumed_from"] == 0  # it was never interrupted
    assert len([child for child in api.children(run_id) if child["name"].startswith("train")]) == 1
    log = (workspace / "runs/patient/logs/train.log").read_text()
    assert log.count('"kind": "started"') == 1
    within(90, lambda: api.slots() == 0, "the slots are free")


def test_a_killed_command_is_marked_crashed_and_the_same_command_goes_on(installation: Installation, tmp_path: Path) -> None:
    api, workspace = installation.api, installation.workspace
    request = write_request(tmp_path, **request_of("killed", 160))
    run = command("run", request, "--workspace", str(workspace))
    before = checkpoints(workspace)
    process = subprocess.Popen(run, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: checkpoints(workspace) - before, 600, "it trains")
    os.killpg(process.pid, signal.SIGKILL)
    _, told = process.communicate()
    assert "Prefect: the server of `tuneflow up`" in told
    within(30, lambda: not tagged(workspace, "killed"), "nothing computes")
    run_id = record(workspace, "killed", "context")["flow_run_id"]
    assert api.state(run_id) == "Running"
    within(3 * 30 + 15, lambda: api.state(run_id) == "Crashed", "it is marked Crashed")
    again = subprocess.run(run, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, timeout=1200)
    assert again.returncode in (0, 3), again.stderr
    result = json.loads((workspace / "runs/killed/result.json").read_text())
    assert result["model"]["resumed_from"] >= 20
