from pathlib import Path

import pytest
from filelock import FileLock

from tasks.contracts import RunContext, Spec
from tasks.errors import RequestError
from tasks.records import keep, known
from tasks.reporting.steps import opened_run
from tasks.steps import tracker_of
from tasks.storage import Store


class Empty(Spec):
    """A request that asks for nothing."""


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNEFLOW_WORKSPACE", str(tmp_path))
    return tmp_path


def test_two_runs_of_one_name_at_once_are_refused(workspace: Path) -> None:
    held = workspace / "runs" / "bot" / ".lock"
    held.parent.mkdir(parents=True)
    with (
        FileLock(held),
        pytest.raises(RequestError, match=r"Another run of 'bot' is under way"),
        opened_run("bot", Empty(), "", "", ""),
    ):
        raise AssertionError("it was opened")


def test_a_run_forgets_what_another_flow_run_left_and_a_stage_does_not(workspace: Path) -> None:
    store = Store(str(workspace), workspace / "scratch")
    keep(store, "bot", "context", RunContext(name="bot", workspace=str(workspace), flow_run_id="another"))
    keep(store, "bot", "plan", Empty())
    with opened_run("bot", Empty(), "", "", "", anew=False):
        assert known(store, "bot", "plan")
    with opened_run("bot", Empty(), "", "", ""):
        assert not known(store, "bot", "plan")


def test_a_run_that_breaks_is_failed_in_mlflow_and_its_name_is_free_again() -> None:
    with pytest.raises(ZeroDivisionError), opened_run("bot", Empty(), "", "", "") as broken:
        raise ZeroDivisionError
    with opened_run("bot", Empty(), "", "", "") as run:
        tracker = tracker_of(run)
    states = {run_id: tracker.client.get_run(run_id).info.status for run_id in (broken.run_id, run.run_id)}
    assert states == {broken.run_id: "FAILED", run.run_id: "FINISHED"}
