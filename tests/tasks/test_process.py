"""Child processes: what they print arrives, what they leave behind ends with them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tasks.errors import ChildError
from tasks.process import child_environment, emit, parse_event, python_module, run_child

ROOT = Path(__file__).parents[2]
# A child that starts a grandchild in a session of its own, as daemons do, and says so when both are there.
FAMILY = """
import signal, subprocess, sys, time
ignore = "stubborn" in sys.argv
if ignore:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = [sys.executable, "-c", "import signal, time; "
           + ("signal.signal(signal.SIGTERM, signal.SIG_IGN); " if ignore else "") + "print('up', flush=True); time.sleep(600)"]
held = subprocess.Popen(sleeper, start_new_session=True, stdout=subprocess.PIPE, text=True)
held.stdout.readline()
subprocess.Popen(sleeper, start_new_session=True)  # this one holds the pipe of its parent too
print('@event {"kind": "ready"}', flush=True)
time.sleep(1 if "short" in sys.argv else 600)
"""


class Crowd:
    """Processes that carry a tag of their own in their environment."""

    def __init__(self) -> None:
        self.tag = uuid4().hex
        self.environment = {"TUNEFLOW_TEST_TAG": self.tag}

    def pids(self) -> dict[int, str]:
        """Those alive now: process id and command line."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.tag.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
            except OSError:
                continue
        return found

    def left(self, seconds: float = 5.0) -> dict[int, str]:
        """Those still alive after some seconds."""
        wait_until(lambda: not self.pids(), seconds)
        return self.pids()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    for pid in crowd.pids():
        os.kill(pid, signal.SIGKILL)


def wait_until(met: Callable[[], object], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if met():
            return True
        time.sleep(0.05)
    return False


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def run(code: str, *arguments: str, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    events: list[dict[str, Any]] = []
    lines: list[str] = []
    run_child(python(code, *arguments), on_event=events.append, on_line=lines.append, **options)
    return events, lines


def test_events_and_lines_arrive_in_order_and_apart(tmp_path: Path) -> None:
    code = """
from tasks.process import emit
import sys
emit("progress", done=1, total=2)
print("a line")
print("an error", file=sys.stderr, flush=True)
print()
print("[default0]:@event {\\"kind\\": \\"metrics\\", \\"loss\\": 0.5}")
print("@event {broken")
"""
    log = tmp_path / "logs" / "child.log"
    events, lines = run(code, log=log)
    assert events == [{"kind": "progress", "done": 1, "total": 2}, {"kind": "metrics", "loss": 0.5}]
    assert lines == ["a line", "an error", "@event {broken"]
    assert log.read_text().splitlines()[1:4] == ["a line", "an error", ""]


def test_an_emitted_event_is_parsed_back(capsys: pytest.CaptureFixture[str]) -> None:
    emit("log", text="two\nlines ü")
    assert parse_event(capsys.readouterr().out) == {"kind": "log", "text": "two\nlines ü"}
    assert parse_event("@event [1]") is None
    assert parse_event("no event") is None


def test_the_last_line_needs_no_end_and_bytes_need_no_encoding() -> None:
    code = r"import sys; sys.stdout.buffer.write(b'bad \xff byte\nno end')"
    assert run(code)[1] == ["bad � byte", "no end"]


def test_the_error_holds_the_status_and_the_last_200_lines() -> None:
    code = "import sys\nfor n in range(1000): print(n)\nsys.exit(7)"
    with pytest.raises(ChildError) as caught:
        run(code)
    assert caught.value.returncode == 7
    assert caught.value.tail == tuple(str(number) for number in range(800, 1000))
    assert str(caught.value).startswith(f"{Path(sys.executable).name} ended with status 7. Its last lines:\n  | 800\n")


def test_a_module_of_ours_is_called_by_its_name() -> None:
    with pytest.raises(ChildError, match=r"^tasks\.release\.worker ended with status 1\. Its last lines:\n(.|\n)*IndexError"):
        run_child(python_module("tasks.release.worker"))


def test_a_signal_is_a_status_above_128() -> None:
    with pytest.raises(ChildError, match="ended with status 137") as caught:
        run("import os; os.kill(os.getpid(), 9)")
    assert caught.value.returncode == 137


def test_a_program_that_does_not_exist_is_told() -> None:
    with pytest.raises(ChildError, match="no-such-program"):
        run_child(["no-such-program"])


def test_the_environment_is_added_to_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    code = "import os; print(os.environ['OURS'], os.environ['TUNEFLOW_RUN'], os.environ['OMP_NUM_THREADS'])"
    assert run(code, environment=child_environment("cpu", threads=3, tag="run-1"))[1] == ["1 run-1 3"]


def test_a_cpu_child_sees_no_gpu_and_no_child_asks_a_hub() -> None:
    cpu, cuda = (child_environment(accelerator, 1, "") for accelerator in ("cpu", "cuda"))
    assert (cpu["CUDA_VISIBLE_DEVICES"], cpu["DS_ACCELERATOR"]) == ("", "cpu")
    assert "CUDA_VISIBLE_DEVICES" not in cuda
    assert {cpu["HF_HUB_OFFLINE"], cuda["HF_HUB_OFFLINE"]} == {"1"}


def test_a_child_finds_this_project_wherever_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("import tasks; print(tasks.__file__)")[1] == [str(ROOT / "tasks" / "__init__.py")]


def test_a_callback_that_raises_ends_the_child(crowd: Crowd) -> None:
    def refuse(event: dict[str, Any]) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_child(python(FAMILY), on_event=refuse, environment=crowd.environment, grace_seconds=2)
    assert crowd.left() == {}


def test_a_child_yields_the_processor_to_whoever_asked_for_it() -> None:
    events, _ = run("import os; from tasks.process import emit; emit('nice', value=os.nice(0))")
    assert events[0]["value"] == os.nice(0) + 5


def test_nothing_outlives_a_normal_end(crowd: Crowd) -> None:
    events, _ = run(FAMILY, "short", environment=crowd.environment)
    assert events == [{"kind": "ready"}]
    assert crowd.left(0.5) == {}


def test_nothing_outlives_a_stop(crowd: Crowd) -> None:
    with pytest.raises(ChildError, match=r"was stopped: the run is Cancelled\.") as caught:
        run(FAMILY, environment=crowd.environment, should_stop=lambda: "the run is Cancelled", poll_seconds=1)
    assert caught.value.returncode == 128 + signal.SIGTERM
    assert crowd.left(0.5) == {}


def test_a_stop_is_asked_for_while_the_child_prints_without_end(crowd: Crowd) -> None:
    code = "while True: print('again', flush=True)"
    with pytest.raises(ChildError, match="was stopped: enough"):
        run_child(python(code), environment=crowd.environment, should_stop=lambda: "enough", poll_seconds=0.5)
    assert crowd.left(0.5) == {}


def test_who_ignores_sigterm_is_killed_after_the_grace(crowd: Crowd) -> None:
    asked: list[float] = []

    def stop() -> str:
        asked.append(time.monotonic())
        return "enough" if len(crowd.pids()) >= 4 else ""  # shim, child and both grandchildren

    with pytest.raises(ChildError, match="was stopped: enough"):
        run(FAMILY, "stubborn", environment=crowd.environment, should_stop=stop, poll_seconds=0.5, grace_seconds=1.5)
    assert 1.4 < time.monotonic() - asked[-1] < 8
    assert crowd.left(0.5) == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("manner", ["obedient", "stubborn"])
def test_nothing_outlives_its_parent(crowd: Crowd, number: int, manner: str) -> None:
    code = "import sys; from tasks.process import run_child; run_child(sys.argv[1:], grace_seconds=1, on_event=print)"
    parent = subprocess.Popen(
        python(code, *python(FAMILY, manner)), env={**os.environ, **crowd.environment}, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert wait_until(lambda: len(crowd.pids()) == 5)  # parent, shim, child and both grandchildren
        parent.send_signal(number)
        parent.wait(20)
        assert crowd.left() == {}
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.parametrize("manner", ["obedient", "stubborn"])
def test_nothing_outlives_a_shim_that_was_killed(crowd: Crowd, manner: str) -> None:
    def kill_shim(event: dict[str, Any]) -> None:
        shim = next(pid for pid, command in crowd.pids().items() if "tasks.shim" in command)
        os.kill(shim, signal.SIGKILL)

    started = time.monotonic()
    with pytest.raises(ChildError, match="ended with status -9") as caught:
        run_child(python(FAMILY, manner), on_event=kill_shim, environment=crowd.environment, grace_seconds=1)
    assert caught.value.returncode == -9
    assert time.monotonic() - started < 20
    assert crowd.left() == {}
