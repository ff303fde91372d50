"""Leases on devices: one holder at a time, over processes, and gone with the last process that holds it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tasks.devices import busy_share, holder, leased, visible_devices, watched
from tasks.errors import StoppedError
from tasks.process import run_child
from tests.servers import ROOT, wait_for

HOLD = (
    "import sys, time; from tasks.devices import leased\nwith leased(sys.argv[1:]): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def name() -> str:
    return f"test-{uuid4().hex}"


@pytest.fixture
def other(name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the device."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, name], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lease_is_held_by_one_and_free_afterwards(name: str) -> None:
    assert holder(name) == 0
    with leased([name]):
        assert holder(name) == os.getpid()
    assert holder(name) == 0


def test_who_waits_is_told_by_whom_the_device_is_held_and_gets_it_when_that_one_is_killed(
    name: str, other: subprocess.Popen[str]
) -> None:
    told: list[str] = []
    threading.Timer(0.5, other.kill).start()
    with leased([name], waiting=told.append, poll_seconds=0.05):
        assert holder(name) == os.getpid()
    assert told == [f"the device {name} is held by process {other.pid}; waiting for it"]


def test_waiting_ends_when_the_run_is_cancelled(name: str, other: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(StoppedError, match=rf"Waiting for the device {name} was stopped: its flow run is Cancelling\."),
        leased([name], should_stop=lambda: "its flow run is Cancelling", poll_seconds=0.05),
    ):
        raise AssertionError("it was taken")


def test_two_that_want_the_same_two_devices_do_not_wait_for_each_other_for_ever() -> None:
    names = [f"test-{uuid4().hex}" for _ in range(2)]
    done: list[int] = []

    def take(order: list[str]) -> None:
        for _ in range(20):
            with leased(order, poll_seconds=0.001):
                done.append(1)

    threads = [threading.Thread(target=take, args=(order,)) for order in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(done) == 40


def test_a_child_keeps_the_lease_until_its_last_process_has_ended(name: str, tmp_path: Path) -> None:
    """The asking process is killed; what it started still computes for a while, and nobody else may meanwhile."""
    slow = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), exit(0))); print('on', flush=True); "
        "time.sleep(60)"
    )
    asking = f"""
import sys
from tasks.devices import leased
from tasks.process import run_child
with leased([{name!r}]) as holds:
    run_child([sys.executable, "-c", {slow!r}], holds=holds, on_line=lambda line: print(line, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", asking], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert holder(name) > 0
    wait_for(lambda: holder(name) == 0, 10, "the lease is free")


def test_a_child_s_own_children_do_not_inherit_the_lease(name: str) -> None:
    lines: list[str] = []
    with leased([name]) as holds:
        look = (
            f"import os; paths = [f'/proc/self/fd/{{n}}' for n in {list(holds)}]; "
            "print(any('socket' in os.readlink(path) for path in paths if os.path.exists(path)))"
        )
        run_child([sys.executable, "-c", look], holds=holds, on_line=lines.append)
    assert lines == ["False"]


FAKE = """#!/bin/sh
case "$1" in
*uuid,index*) printf 'GPU-aaaa, 0\\nGPU-bbbb, 1\\nGPU-cccc, 2\\n' ;;
*) printf 'GPU-aaaa, 0\\nGPU-bbbb, %s\\nGPU-cccc, 0\\n' "$(cat "$BUSY")" ;;
esac
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver's program that tells of three GPUs; the second is as busy as the file says."""
    program, busy = tmp_path / "nvidia-smi", tmp_path / "busy"
    program.write_text(FAKE)
    program.chmod(0o755)
    busy.write_text("80")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("BUSY", str(busy))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return busy


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (None, ("GPU-aaaa", "GPU-bbbb", "GPU-cccc")),
        ("2,0", ("GPU-cccc", "GPU-aaaa")),
        ("GPU-bb", ("GPU-bbbb",)),
        ("7", ("gpu-7",)),
        ("", ()),
    ],
)
def test_gpus_are_named_by_what_the_driver_calls_them(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, found: tuple[str, ...]
) -> None:
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_devices("cuda") == found


def test_a_cpu_is_shared_unless_it_stands_in_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEFLOW_STAND_IN", raising=False)
    assert visible_devices("cpu") == ()
    monkeypatch.setenv("TUNEFLOW_STAND_IN", "stand-in-1")
    assert visible_devices("cpu") == ("stand-in-1",)


def test_the_busiest_of_the_held_gpus_counts(gpus: Path) -> None:
    assert busy_share(["GPU-aaaa", "GPU-bbbb"]) == 0.8
    assert busy_share(["GPU-cccc"]) == 0.0
    assert busy_share(["stand-in-1"]) is None


def test_a_held_gpu_that_idles_is_told_of_once_until_it_works_again(gpus: Path) -> None:
    gpus.write_text("0")
    said: list[float] = []
    with watched(["GPU-bbbb"], minutes=0.002, say=said.append, poll_seconds=0.05):
        wait_for(lambda: said, 10)
        time.sleep(0.5)
        assert len(said) == 1
        gpus.write_text("50")
        time.sleep(0.5)
        gpus.write_text("0")
        wait_for(lambda: len(said) == 2, 10)
    assert all(minutes >= 0.002 for minutes in said)
