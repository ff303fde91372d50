"""One rank's checkpoints, with a small engine in place of DeepSpeed's."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tasks.contracts import ModelRef
from tasks.errors import TrainingError, WorkspaceError
from tasks.process import parse_event
from tasks.training import checkpoint
from tasks.training.job import TrainingJob
from tasks.training.keeping import Keeper
from tasks.training.methods.driver import NoDriver
from tasks.training.spec import AdvancedTraining
from tests.tasks.training.conftest import build_job


class Engine:
    """Saves and loads one layer, as DeepSpeed's engine does."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(30, 20)
        self._config = SimpleNamespace(load_universal_checkpoint=False)
        self.harm = False

    def save_checkpoint(self, folder: str, tag: str, exclude_frozen_parameters: bool) -> None:
        path = Path(folder) / tag / "weights.pt"
        path.parent.mkdir(parents=True)
        torch.save(self.module.state_dict(), path)
        if self.harm:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)

    def load_checkpoint(self, folder: str, tag: str, load_module_strict: bool) -> tuple[str | None, None]:
        path = Path(folder) / tag / "weights.pt"
        if not path.exists():
            return None, None
        self.module.load_state_dict(torch.load(path, weights_only=True))
        return str(path), None


class Counting(NoDriver):
    """A driver that keeps a number."""

    def __init__(self) -> None:
        self.number = torch.zeros(2, dtype=torch.float64)

    def state(self) -> dict[str, torch.Tensor]:
        return {"number": self.number}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        self.number = state["number"]


@pytest.fixture(autouse=True)
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    base = ModelRef(
        uri="none", location="none", sha256="0" * 64, parameters=8, architecture="Linear", max_positions=8, vocabulary=8,
        bytes=0, hidden_size=2, layers=1,
    )  # fmt: skip
    made = build_job(base, tmp_path, tmp_path / "job")
    made.checkpoints.mkdir(parents=True)
    return made


def told(capsys: pytest.CaptureFixture[str], kind: str) -> list[dict[str, Any]]:
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    return [event for event in events if event and event["kind"] == kind]


def test_what_was_saved_comes_back_with_what_the_method_keeps(job: TrainingJob) -> None:
    first, driver = Engine(), Counting()
    driver.number += 0.1
    Keeper(job, first, driver).save(3, {"step": 3, "tokens": 7})
    second, other = Engine(), Counting()
    kept = Keeper(job, second, other).resume()
    assert kept is not None
    assert (kept.step, kept.ranks, kept.state) == (3, 1, {"step": 3, "tokens": 7})
    assert torch.equal(first.module.weight, second.module.weight)
    assert torch.equal(driver.number, other.number)


@pytest.mark.parametrize("kept", [1, 3])
def test_as_many_checkpoints_stay_as_are_asked_for(job: TrainingJob, kept: int) -> None:
    advanced = job.spec.advanced.model_copy(update={"keep_checkpoints": kept})
    asked = job.model_copy(update={"spec": job.spec.model_copy(update={"advanced": advanced})})
    keeper = Keeper(asked, Engine(), NoDriver())
    for step in range(1, 6):
        keeper.save(step, {})
    left = sorted(int(path.parent.name.removeprefix("step-")) for path in job.checkpoints.glob("step-*/complete.json"))
    assert left == list(range(6 - kept, 6))


def test_a_first_run_finds_nothing(job: TrainingJob) -> None:
    assert Keeper(job, Engine(), NoDriver()).resume() is None


def test_the_interval_is_told_once_and_taken_up_again(job: TrainingJob, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = Keeper(job, Engine(), NoDriver())
    assert [keeper.pace.due(step) for step in (1, 2, 3)] == [False, False, True]
    keeper.save(3, {})
    keeper.save(4, {})
    (note,) = told(capsys, "note")
    assert note["text"].startswith("a checkpoint every ")
    content = json.loads((checkpoint.folder_of(job.checkpoints, 4) / "complete.json").read_text())
    content["pace"] = [0.5, 10.0]  # 294 s apart, of steps of 10 s
    (checkpoint.folder_of(job.checkpoints, 4) / "complete.json").write_text(json.dumps(content))
    resumed = Keeper(job, Engine(), NoDriver())
    resumed.resume()
    assert next(step for step in range(5, 100) if resumed.pace.due(step)) == 4 + 29


def test_an_interval_that_was_asked_for_is_not_explained(job: TrainingJob, capsys: pytest.CaptureFixture[str]) -> None:
    spec = job.spec.model_copy(update={"advanced": AdvancedTraining(checkpoint_steps=5)})
    keeper = Keeper(job.model_copy(update={"spec": spec}), Engine(), NoDriver())
    assert [step for step in range(1, 11) if keeper.pace.due(step)] == [5, 10]
    keeper.save(5, {})
    assert told(capsys, "note") == []


def test_no_more_are_kept_than_asked_for(job: TrainingJob) -> None:
    keeper = Keeper(job, Engine(), NoDriver())
    for step in (3, 4, 5):
        keeper.save(step, {})
    assert [path.name for path in sorted(job.checkpoints.glob("step-*"))] == ["step-00000004", "step-00000005"]


def test_a_full_disk_costs_a_checkpoint_and_not_the_training(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keeper = Keeper(job, Engine(), NoDriver())
    keeper.save(3, {})
    monkeypatch.setattr(checkpoint, "free_bytes", lambda _: 1000)
    keeper.save(6, {})
    assert checkpoint.newest_step(job.checkpoints) == 3
    (warning,) = told(capsys, "log")
    assert warning["text"].startswith("checkpoint of step 6: the disk of ")
    assert warning["text"].endswith("it is not written: the newest, of step 3, stays")
    with pytest.raises(WorkspaceError, match="two of them take about"):
        keeper.resume()


def test_a_checkpoint_that_is_not_what_was_in_memory_takes_the_place_of_none(job: TrainingJob) -> None:
    engine = Engine()
    keeper = Keeper(job, engine, NoDriver())
    keeper.save(3, {})
    engine.harm = True
    with pytest.raises(OSError, match=r"weights\.pt: .+ is not what was written"):
        keeper.save(6, {})
    assert checkpoint.newest_step(job.checkpoints) == 3


def test_what_is_not_whole_is_told_of_and_removed(job: TrainingJob, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = Keeper(job, Engine(), NoDriver())
    keeper.save(3, {})
    keeper.save(6, {})
    (checkpoint.folder_of(job.checkpoints, 6) / "complete.json").unlink()
    kept = keeper.resume()
    assert kept is not None
    assert kept.step == 3
    assert [event["text"] for event in told(capsys, "log")] == ["checkpoint passed over: step-00000006: it was not finished"]
    assert [path.name for path in job.checkpoints.glob("step-*")] == ["step-00000003"]


def test_a_checkpoint_in_which_there_is_nothing_to_load_is_refused(job: TrainingJob) -> None:
    keeper = Keeper(job, Engine(), NoDriver())
    checkpoint.folder_of(job.checkpoints, 3).mkdir()
    checkpoint.seal(checkpoint.folder_of(job.checkpoints, 3), 3, {})
    with pytest.raises(TrainingError, match=r"DeepSpeed finds nothing to load in .+ Remove it to go on from the one before"):
        keeper.resume()


@pytest.mark.parametrize(
    ("plan", "optimizer", "why"),
    [
        ({"offload": "nvme"}, "adamw", "states on a fast disk .* Use as many devices as before, or offload cpu"),
        ({}, "adamw_8bit", "moments in 8 bits that ZeRO has divided .* or training.advanced.optimizer: adamw"),
    ],
)
def test_what_cannot_be_converted_for_another_number_of_ranks_is_refused(
    job: TrainingJob, plan: dict[str, Any], optimizer: Any, why: str
) -> None:
    Keeper(job, Engine(), NoDriver()).save(3, {})
    folder = checkpoint.folder_of(job.checkpoints, 3)
    (folder / "state" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    content = json.loads((folder / "complete.json").read_text())
    (folder / "complete.json").write_text(json.dumps({**content, "ranks": 2}))
    advanced = job.spec.advanced.model_copy(update={"optimizer": optimizer})
    spec = job.spec.model_copy(update={"advanced": advanced})
    away = job.model_copy(update={"plan": job.plan.model_copy(update=plan), "spec": spec})
    with pytest.raises(TrainingError, match=rf"is of 2 rank\(s\) and there are 1 now, but {why}"):
        Keeper(away, Engine(), NoDriver()).resume()
