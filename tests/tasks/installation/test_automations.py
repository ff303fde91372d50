"""The automations at work on a real server: dead runs are found, crashed ones go on, and not for ever."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import wait_for
from tests.tasks.installation.conftest import Api

pytestmark = pytest.mark.slow

# Dies by SIGKILL in its first run, within a part of its own.
DYING = """
import os, signal
from pathlib import Path
from prefect import flow

@flow
def part():
    marker = Path(__file__).with_name("died")
    if not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)

@flow
def dies_once():
    part()
"""
# Runs by hand, with the tags of its command line.
SILENT = """
import sys, time
from pathlib import Path
from prefect import flow, tags
from prefect.runtime import flow_run

@flow
def silent():
    Path(sys.argv[1]).write_text(flow_run.id)
    time.sleep(600)

with tags(*sys.argv[2:]):
    silent()
"""


@pytest.fixture(scope="module", autouse=True)
def installed(api: Api) -> None:
    assert set(api.setup().values()) == {"made"}


@contextmanager
def running(api: Api, folder: Path, scripts: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    """A script run by hand for each name, with its tags; yields their flow runs' ids and kills them afterwards."""
    (folder / "silent.py").write_text(SILENT, encoding="utf-8")
    processes = [
        subprocess.Popen(
            [sys.executable, "silent.py", str(folder / name), *tags],
            cwd=folder, env=dict(api.environment), start_new_session=True,
        )
        for name, tags in scripts.items()
    ]  # fmt: skip
    try:
        for name in scripts:
            wait_for(lambda name=name: (folder / name).is_file() and (folder / name).read_text(), 90, f"{name} runs")
        yield {name: (folder / name).read_text() for name in scripts}
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def heartbeats(api: Api, flow_run_id: str) -> int:
    criteria = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{flow_run_id}"]}}
    return len(api.call("POST", "/events/filter", {"filter": criteria})["events"])


def crash_four_times(api: Api, deployment: str) -> str:
    """A run that starts and crashes until it is given up; its id."""
    run = api.start(deployment)
    for _ in range(4):
        for state in ("RUNNING", "CRASHED"):
            api.call("POST", f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})
    wait_for(lambda: api.state(run) == "Failed", 20, "the run is given up")
    return run


def test_a_dead_run_is_set_crashed_and_goes_on_where_it_is_tagged_but_not_for_ever(api: Api, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING, encoding="utf-8")
    tags = ["tuneflow", "resumable"]
    unlucky = crash_four_times(api, api.deploy(tmp_path, "unlucky", "absent.py:flow", tags))
    once = api.start(api.deploy(tmp_path, "dies-once", "dying.py:dies_once", tags))
    absent = api.start(api.deploy(tmp_path, "absent", "absent.py:flow", tags))
    scripts = {"ours": ["tuneflow"], "part": ["tuneflow-part"], "other": [], "suspended": ["tuneflow"]}
    with api.worker(tmp_path / "worker.log"):
        with running(api, tmp_path, scripts) as runs:
            for run in runs.values():
                wait_for(lambda run=run: heartbeats(api, run), 30, "a sign of life")
        killed = time.monotonic()
        suspension = {"state": {"type": "PAUSED", "name": "Suspended"}, "force": True}
        api.call("POST", f"/flow_runs/{runs['suspended']}/set_state", suspension)
        assert api.state(runs["ours"]) == "Running"
        wait_for(lambda: api.state(runs["ours"]) == "Crashed", 150, "the silent run is set Crashed")
        silence = time.monotonic() - killed
        wait_for(lambda: api.state(runs["part"]) == "Crashed", 20, "the silent part is set Crashed")
        wait_for(lambda: api.state(once) == "Completed", 120, "the run that died goes on")
    assert 40 < silence < 110
    assert api.call("GET", f"/flow_runs/{runs['ours']}")["state"]["message"] == "No sign of life for 75 seconds."
    # Of another's flow nobody knows how often it sends signs of life, and a suspended run sends none.
    assert (api.state(runs["other"]), api.state(runs["suspended"])) == ("Running", "Suspended")
    states = [name for name, _ in api.states(once)]
    assert [states.count(name) for name in ("Running", "Crashed", "AwaitingRetry", "Completed")] == [2, 1, 1, 1]
    # A run that never started would not now.
    assert api.state(absent) == "Crashed"
    assert "AwaitingRetry" not in [name for name, _ in api.states(absent)]
    assert api.state(unlucky) == "Failed"
    assert api.call("GET", f"/flow_runs/{unlucky}")["state"]["message"] == "Crashed four times within a day; given up."
    assert "AwaitingRetry" not in [name for name, _ in api.states(unlucky)]
