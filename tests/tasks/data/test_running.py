"""Shards are done once, in order, by one process or by several, and again only where what was written is gone."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.data.running import Facts, each, in_turn, processes_for, processes_kept, several
from tasks.encryption import vault
from tasks.encryption.keys import MasterKey
from tasks.errors import RequestError, StageError


@dataclass(frozen=True)
class Job:
    """Writes its number."""

    number: int
    folder: Path

    @property
    def name(self) -> str:
        return f"job-{self.number}"

    @property
    def outputs(self) -> Sequence[Path]:
        return [self.folder / f"{self.number}.txt"]


def work(job: Job) -> Facts:
    with (job.folder / "log").open("a") as log:
        log.write(f"{job.number}\n")
    job.outputs[0].write_text(str(job.number))
    return {"square": job.number**2, "process": os.getpid()}


def killed(job: Job) -> Facts:
    os.kill(os.getpid(), signal.SIGKILL)
    return work(job)


def jobs_in(folder: Path, count: int = 4) -> list[Job]:
    return [Job(number, folder) for number in range(count)]


def log_of(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


def test_what_is_marked_is_not_done_again(tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    told: list[tuple[int, int]] = []
    first = each(in_turn, work, jobs[:2], tmp_path / "marks")
    found = each(in_turn, work, jobs, tmp_path / "marks", lambda done, total: told.append((done, total)))
    assert [facts["square"] for facts in found] == [0, 1, 4, 9]
    assert found[:2] == first
    assert log_of(tmp_path) == ["0", "1", "2", "3"]
    assert told == [(2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("harm", ["changed", "removed", "mark"])
def test_what_is_no_longer_whole_is_done_again(tmp_path: Path, harm: str) -> None:
    jobs = jobs_in(tmp_path)
    each(in_turn, work, jobs, tmp_path / "marks")
    if harm == "mark":
        (tmp_path / "marks/job-2.json").write_text("{")
    elif harm == "changed":
        jobs[2].outputs[0].write_text("3")
    else:
        jobs[2].outputs[0].unlink()
    assert [facts["square"] for facts in each(in_turn, work, jobs, tmp_path / "marks")] == [0, 1, 4, 9]
    assert log_of(tmp_path) == ["0", "1", "2", "3", "2"]
    assert jobs[2].outputs[0].read_text() == "2"


def test_several_processes_give_the_same_in_the_same_order(tmp_path: Path) -> None:
    with several(2) as run:
        found = each(run, work, jobs_in(tmp_path, 6), tmp_path / "marks")
    assert [facts["square"] for facts in found] == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {facts["process"] for facts in found}


def test_a_killed_process_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="was killed, most often by the system for want of memory"), several(2) as run:
        each(run, killed, jobs_in(tmp_path, 3), tmp_path / "marks")


def process_of(_job: int) -> int:
    return os.getpid()


def test_processes_are_kept_from_step_to_step_and_end_with_the_last(tmp_path: Path) -> None:
    seen = []
    with processes_kept():
        for _ in range(2):
            with several(1) as alone, several(2) as run:
                assert list(alone(process_of, [1])) == [os.getpid()]
                seen.append(set(run(process_of, range(40))))
        assert len(seen[0] | seen[1]) <= 2
        with vault.unlocked(MasterKey(bytes(32))), several(2) as run:
            assert not set(run(process_of, range(8))) & (seen[0] | seen[1])  # others hold the key
    assert not [process for process in seen[0] | seen[1] if Path(f"/proc/{process}").exists()]


def late(path: Path) -> None:
    time.sleep(0.3)
    path.write_text("")


def test_nothing_goes_on_in_kept_processes_once_the_step_has_ended(tmp_path: Path) -> None:
    with processes_kept():
        with pytest.raises(StageError, match="the step ended"), several(2) as run:
            next(run(late, [tmp_path / str(number) for number in range(40)]))
            raise StageError("the step ended")
        there = set(tmp_path.iterdir())
        time.sleep(0.8)
        assert set(tmp_path.iterdir()) == there
        assert 1 <= len(there) < 40


def test_after_a_death_others_are_started(tmp_path: Path) -> None:
    with processes_kept():
        with pytest.raises(StageError, match="was killed"), several(2) as run:
            each(run, killed, jobs_in(tmp_path, 3), tmp_path / "marks")
        with several(2) as run:
            assert [facts["square"] for facts in each(run, work, jobs_in(tmp_path, 3), tmp_path / "more")] == [0, 1, 4]


def test_one_process_is_this_process(tmp_path: Path) -> None:
    with several(1) as run:
        assert each(run, work, jobs_in(tmp_path, 1), tmp_path / "marks")[0]["process"] == os.getpid()


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes_for(1, 10**9) == 1
    assert processes_for(10, 30_000) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert processes_for(10, 10**9) == 8
    assert processes_for(10, 60_000) == 3
    monkeypatch.setenv("TUNEFLOW_PROCESSES", "3")
    assert (processes_for(10, 1), processes_for(2, 1), processes_for(0, 1)) == (3, 2, 1)
    monkeypatch.setenv("TUNEFLOW_PROCESSES", "two")
    with pytest.raises(RequestError, match="TUNEFLOW_PROCESSES is 'two'; expected how many processes"):
        processes_for(10, 1)
