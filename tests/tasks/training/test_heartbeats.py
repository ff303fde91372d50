"""Whether ranks that hang or are slow are noticed: what is said of beats, and real trainings."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.training.attempts import train
from tasks.training.heartbeats import Beat, Heart, Judgement, Patience, Vigil, read, send, signal_ranks
from tasks.training.methods.lora import Lora
from tasks.training.recovery import Policy
from tasks.training.spec import AdvancedTraining
from tests.conftest import ROOT
from tests.tasks.training.conftest import cpu_plan, losses, signal_processes

STRICT = Patience(floor_seconds=10.0, passes=5.0, slow=2.0, over=4)


def beat(rank: int, passes: int, seconds: float = 1.0, host: str = "") -> Beat:
    return Beat(rank=rank, pid=1, host=host, ranks=2, passes=passes, pass_seconds=seconds, gap_seconds=1.0)


def test_the_rank_that_is_behind_hangs() -> None:
    judgement = Judgement(STRICT)
    assert judgement.hung([beat(0, 7), beat(1, 6, host="b")], 0.0) == ([], "")
    assert judgement.hung([beat(0, 7), beat(1, 6, host="b")], 9.9) == ([], "")
    behind, why = judgement.hung([beat(0, 7), beat(1, 6, host="b")], 10.0)
    assert [each.rank for each in behind] == [1]
    assert why == "rank 1 on b finished no pass for 10 s, after 6; one takes 1 s, and 10 s were waited"


def test_ranks_that_stop_at_the_same_pass_are_all_named() -> None:
    judgement = Judgement(STRICT)
    judgement.hung([beat(0, 7), beat(1, 7)], 0.0)
    assert judgement.hung([beat(0, 7), beat(1, 7)], 11.0)[1].startswith("ranks 0, 1 finished no pass for 11 s")


def test_a_rank_that_goes_on_does_not_hang() -> None:
    judgement = Judgement(STRICT)
    for second in range(0, 60, 5):
        assert judgement.hung([beat(0, second + 1), beat(1, 3)], float(second)) == ([], "")


def test_slow_steps_and_slow_checkpoints_are_waited_for() -> None:
    slow = [Beat(rank=0, pid=1, host="", ranks=1, passes=3, pass_seconds=4.0, gap_seconds=6.0)]
    judgement = Judgement(STRICT)
    judgement.hung(slow, 0.0)
    assert not judgement.hung(slow, 29.0)[0]  # 5 passes of 6 s
    assert judgement.hung(slow, 30.0)[0]
    patient = Judgement(STRICT, slowest_checkpoint=20.0)
    patient.hung([beat(0, 1)], 0.0)
    assert not patient.hung([beat(0, 1)], 79.0)[0]
    assert patient.hung([beat(0, 1)], 80.0)[0]


def test_nothing_hangs_before_the_first_pass_and_ten_times_as_long_is_waited_for_a_checkpoint() -> None:
    judgement = Judgement(STRICT)
    for second in (0.0, 1000.0):
        assert not judgement.hung([beat(0, 0), beat(1, 3)], second)[0]
    judgement.writing = True
    for second in (2000.0, 2099.0):
        assert not judgement.hung([beat(0, 4), beat(1, 4)], second)[0]
    assert judgement.hung([beat(0, 4), beat(1, 4)], 2100.0)[0]
    judgement.writing = False
    judgement.forget()
    assert not judgement.hung([beat(0, 4), beat(1, 4)], 2109.0)[0]
    assert judgement.hung([beat(0, 4), beat(1, 4)], 2119.0)[0]


def test_a_slow_rank_is_told_of_once() -> None:
    judgement = Judgement(STRICT)
    assert judgement.slow([beat(0, 3), beat(1, 3, 9.0)]) == []  # too few passes
    assert judgement.slow([beat(0, 4), beat(1, 4, 1.9)]) == []
    (told,) = judgement.slow([beat(0, 5), beat(1, 5, 2.1)])
    assert told.startswith("rank 1 is slow: its forward passes take 2.1 s, others' 1 s (medians of 4); all ranks wait for it.")
    assert judgement.slow([beat(0, 6), beat(1, 6, 2.1)]) == []


def test_a_heart_counts_the_passes_of_a_module(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Linear(2, 2)
    heart = Heart(tmp_path, 0, 1, module)
    for _ in range(3):
        module(torch.zeros(1, 2))
    deadline = time.monotonic() + 30
    while not ((found := read(tmp_path)) and found[0].passes == 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    heart.stop()
    assert found[0].pass_seconds > 0
    module(torch.zeros(1, 2))
    assert read(tmp_path) == []


def test_beats_of_a_group_that_was_larger_do_not_count(tmp_path: Path) -> None:
    for rank, ranks in ((0, 1), (1, 2)):
        (tmp_path / f"{rank}.json").write_text(json.dumps({**vars(beat(rank, 5)), "ranks": ranks}))
    assert [each.rank for each in read(tmp_path)] == [0]


BEATING = """
import sys, time
from pathlib import Path
import torch
from tasks.training.heartbeats import beating

def hang_here():
    time.sleep(600)

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
module = torch.nn.Linear(2, 2)
with beating(folder, rank, 2, module):
    for number in range(50 if rank else 60):
        module(torch.zeros(1, 2))
        time.sleep(0.01)
    hang_here() if rank else time.sleep(600)
"""


def test_where_a_rank_hangs_is_written_down_and_all_are_ended(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    told: list[str] = []
    vigil = Vigil(beats, Patience(floor_seconds=2.0, passes=1.0, dump_seconds=2.0), send, told.append)
    words = [str(beats), "RANK", "tasks.training.worker"]  # by the last, a process is known to be a rank
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    with vigil:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", BEATING, *(str(rank) if word == "RANK" else word for word in words)], env=variables,
                stderr=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        said = [process.communicate(timeout=600)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [-signal.SIGKILL] * 2
    assert vigil.found.startswith("rank 1 finished no pass for ")
    assert ", after 50; one takes " in vigil.found
    assert "in hang_here" in said[1]
    assert "Thread 0x" in said[0]
    assert told == []


def test_a_process_that_is_no_rank_gets_no_signal() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    signal_ranks(signal.SIGKILL, [process.pid])
    assert process.poll() is None
    process.kill()
    process.wait()


def test_signals_go_to_other_hosts_through_one_command_each() -> None:
    ran: list[tuple[str, list[str]]] = []
    beats = [beat(0, 1, host="a"), beat(1, 1, host="b"), beat(2, 1, host="a")]
    send(beats, 9, lambda host, command: ran.append((host, command)))
    assert [(host, command[1:]) for host, command in ran] == [
        ("a", ["-m", "tasks.training.heartbeats", "9", "1", "1"]), ("b", ["-m", "tasks.training.heartbeats", "9", "1"]),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_rank_that_hangs_is_ended_and_training_goes_on(make_job: Any, tmp_path: Path) -> None:
    plan = cpu_plan(devices=2, micro_batch=8, zero_stage=2)
    job = make_job("job", Lora(rank=4), plan, max_steps=40, advanced=AdvancedTraining(checkpoint_steps=8, validate_steps=1000))
    stopped: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "metrics" and event["step"] >= 9 and not stopped:
            stopped.extend(signal_processes(job, 0)[1:])
            os.kill(stopped[0], signal.SIGSTOP)

    log = tmp_path / "train.log"
    result, course = train(
        job, on_event=on_event, log_file=log, policy=Policy(waits=(0.1,)),
        patience=Patience(floor_seconds=8.0, passes=1.0, dump_seconds=1.0),
    )  # fmt: skip
    (recovery,) = course.recoveries
    assert recovery.failure == "hung"
    assert "finished no pass for" in recovery.reason
    assert result["resumed_from"] == recovery.step >= 8
    assert "Current thread" in log.read_text()  # the stack of the rank that waited
    assert len(losses(job)) == 40
