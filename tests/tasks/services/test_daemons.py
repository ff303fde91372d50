"""Starting and ending processes: these and no others, runs first, and none left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.errors import StageError
from tasks.services import daemons
from tasks.services.daemons import demand_life, end, start, tail
from tasks.services.programs import Program
from tasks.services.state import Daemon, Role, Services, carries, marked, runs
from tests.servers import wait_for

SLEEP = "import time; time.sleep(300)"
# Ends on SIGTERM after it has written a checkpoint.
TRAINING = """
import pathlib, signal, sys, time
def ended(*_):
    time.sleep(0.5); pathlib.Path(sys.argv[1]).write_text("whole"); sys.exit(0)
signal.signal(signal.SIGTERM, ended)
print("ready", flush=True)
time.sleep(300)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(300)"
PARENT = """
import os, subprocess, sys
environment = {**os.environ, "PREFECT__FLOW_RUN_ID": sys.argv[1]}
subprocess.run([sys.executable, "-c", *sys.argv[2:]], env=environment)
"""


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark that no process carries after the test."""
    mark = f"daemons-{os.getpid()}-{time.monotonic_ns()}"
    yield mark
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def innocent() -> Iterator["subprocess.Popen[bytes]"]:
    """A process of somebody else, that looks like a service of another workspace."""
    process = subprocess.Popen([sys.executable, "-c", SLEEP], env={"TUNEFLOW_SERVICE": "another", "PREFECT__FLOW_RUN_ID": "7"})
    wait_for(lambda: carries(process.pid, "another"), 10)
    yield process
    assert process.poll() is None
    process.kill()
    process.wait()


def started(workspace: Path, mark: str, name: str, role: Role, *arguments: str) -> Daemon:
    environment = {"PATH": os.environ["PATH"], "TUNEFLOW_SERVICE": mark}
    daemon = start(Program(name, role, (sys.executable, "-c", *arguments), environment), workspace)
    wait_for(lambda: runs(daemon, mark), 10)
    return daemon


def services_of(mark: str, *found: Daemon) -> Services:
    return Services(mark, {}, "SQLite, /x", False, found)


@pytest.mark.usefixtures("innocent")
def test_all_of_a_workspace_ends_and_nothing_else(tmp_path: Path, mark: str) -> None:
    server = started(tmp_path, mark, "server", "server", SLEEP)
    worker = started(tmp_path, mark, "cpu", "worker", SLEEP)
    ended = end(services_of(mark, server, worker))
    assert (ended.services, ended.runs) == (("server", "cpu"), 0)
    assert marked(mark) == []


@pytest.mark.usefixtures("innocent")
def test_a_run_under_way_writes_its_checkpoint(tmp_path: Path, mark: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    worker = started(tmp_path, mark, "cpu", "worker", PARENT, "run-1", TRAINING, str(checkpoint))
    wait_for(lambda: "ready" in Path(worker.log).read_text(), 10)
    told: list[str] = []
    ended = end(services_of(mark, worker), tell=told.append)
    assert ended.runs == 1
    assert checkpoint.read_text() == "whole"
    assert told == ["1 run under way: asked to end, with up to 35 s for a checkpoint"]
    assert marked(mark) == []


def test_a_run_whose_worker_is_gone_ends_too(tmp_path: Path, mark: str) -> None:
    worker = started(tmp_path, mark, "cpu", "worker", PARENT, "run-1", TRAINING, str(tmp_path / "checkpoint"))
    wait_for(lambda: "ready" in Path(worker.log).read_text(), 10)
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: not runs(worker, mark), 10)
    ended = end(services_of(mark, worker))
    assert (ended.services, ended.runs) == ((), 1)
    assert (tmp_path / "checkpoint").exists()
    assert marked(mark) == []


def test_what_does_not_end_is_killed(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemons, "RUN_GRACE", 0.5)
    monkeypatch.setattr(daemons, "SERVICE_GRACE", 0.5)
    worker = started(tmp_path, mark, "cpu", "worker", PARENT, "run-1", STUBBORN)
    server = started(tmp_path, mark, "server", "server", STUBBORN)
    wait_for(lambda: "ready" in Path(worker.log).read_text() and "ready" in Path(server.log).read_text(), 10)
    assert end(services_of(mark, server, worker)).runs == 1
    assert marked(mark) == []


def test_a_process_that_took_over_the_id_is_left_alone(tmp_path: Path, mark: str, innocent: "subprocess.Popen[bytes]") -> None:
    daemon = started(tmp_path, mark, "server", "server", SLEEP)
    stolen = Daemon("cpu", "worker", innocent.pid, daemon.created, (), "")
    assert end(services_of(mark, daemon, stolen)).services == ("server",)


def test_chosen_services_end_and_the_others_stay(tmp_path: Path, mark: str) -> None:
    server = started(tmp_path, mark, "server", "server", SLEEP)
    worker = started(tmp_path, mark, "cpu", "worker", SLEEP)
    assert end(services_of(mark, server, worker), ["cpu"]).services == ("cpu",)
    assert marked(mark) == [server.pid]


def test_a_service_outlives_its_terminal_and_keeps_its_last_log(tmp_path: Path, mark: str) -> None:
    first = started(tmp_path, mark, "server", "server", "print('first'); " + SLEEP)
    assert os.getsid(first.pid) == first.pid
    end(services_of(mark, first))
    second = started(tmp_path, mark, "server", "server", "print('second', flush=True); " + SLEEP)
    wait_for(lambda: "second" in Path(second.log).read_text(), 10)
    assert "second" not in (tmp_path / "services" / "server.log.1").read_text()
    assert Path(second.log).stat().st_mode & 0o077 == 0


def test_a_service_that_dies_says_why(tmp_path: Path, mark: str) -> None:
    code = "print('a', flush=True); raise SystemExit('no such file')"
    program = Program("mlflow", "mlflow", (sys.executable, "-c", code), {})
    daemon = start(program, tmp_path)
    wait_for(lambda: "no such file" in Path(daemon.log).read_text() and not carries(daemon.pid, mark), 10)
    with pytest.raises(StageError, match=r"mlflow ended while it started.*mlflow\.log:\n  \| a\n  \| no such file") as error:
        wait_for(lambda: demand_life(daemon, mark), 10)
    assert error.value.exit_code == 1


@pytest.mark.parametrize(("text", "shown"), [("", "  | nothing"), ("a\n\nb\nc\n", "  | b\n  | c")])
def test_the_end_of_a_log(text: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text(text)
    assert tail(tmp_path / "x.log", 2) == shown
    assert tail(tmp_path / "missing.log") == "  | nothing"
