"""Real trainings of a tiny model, in child processes under torchrun."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ChildError, TrainingError
from tasks.models import weights_digest
from tasks.training import checkpoint
from tasks.training.job import TrainingJob
from tasks.training.launch import launch
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.spec import AdvancedTraining
from tests.tasks.training.conftest import cpu_plan

pytestmark = pytest.mark.slow


def losses(job: TrainingJob) -> list[float]:
    lines = (job.out / "history.jsonl").read_text().splitlines()
    return [point["loss"] for point in map(json.loads, lines) if "loss" in point]


def kill_at(job: TrainingJob, step: int, number: int) -> list[int]:
    """Train until `step`, then send `number` to the rank; the ranks killed."""
    killed: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "metrics" and event["step"] >= step and not killed:
            for folder in Path("/proc").iterdir():
                words = _arguments(folder)
                if str(job.checkpoints).encode() in words and b"torch.distributed.run" not in words:
                    killed.append(int(folder.name))
                    os.kill(int(folder.name), number)

    with pytest.raises(ChildError):
        launch(job, on_event=on_event)
    return killed


def _arguments(folder: Path) -> bytes:
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("method", [Full(), Lora(rank=8, dropout=0.1)], ids=["full", "lora"])
def test_a_killed_training_ends_with_the_same_weights_as_an_uninterrupted_one(make_job: Any, method: Any) -> None:
    advanced = AdvancedTraining(checkpoint_steps=3)
    whole, broken = (make_job(name, method, advanced=advanced) for name in ("whole", "broken"))
    launch(whole)
    assert kill_at(broken, step=7, number=signal.SIGKILL)
    assert checkpoint.newest(broken.checkpoints)[0].step in (3, 6)
    result = launch(broken)
    assert result["resumed_from"] in (3, 6, 9)
    assert weights_digest(broken.out / "model") == weights_digest(whole.out / "model")
    assert losses(broken) == losses(whole)


def test_sigterm_leaves_a_checkpoint_of_that_very_step(make_job: Any) -> None:
    job = make_job(advanced=AdvancedTraining(checkpoint_steps=1000))
    kill_at(job, step=4, number=signal.SIGTERM)
    found, _ = checkpoint.newest(job.checkpoints)
    assert found is not None
    assert found.step >= 4
    assert launch(job)["resumed_from"] == found.step


def test_accumulation_and_two_processes_change_neither_loss_nor_steps(make_job: Any) -> None:
    one = make_job("one")
    four = make_job("four", plan=cpu_plan(micro_batch=4, accumulation=4))
    two = make_job("two", plan=cpu_plan(devices=2, micro_batch=8, zero_stage=2))
    results = [launch(job) for job in (one, four, two)]
    assert {result["steps"] for result in results} == {10}
    for other in (four, two):
        assert losses(other) == pytest.approx(losses(one), rel=1e-5)


def test_zero_3_on_two_processes_trains_an_adapter(make_job: Any) -> None:
    divided = make_job("divided", Lora(rank=4), cpu_plan(devices=2, micro_batch=8, zero_stage=3))
    alone = make_job("alone", Lora(rank=4))
    launch(divided)
    launch(alone)
    assert losses(divided) == pytest.approx(losses(alone), rel=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(make_job: Any) -> None:
    jobs = [make_job(name, Lora(rank=4), seed=seed, max_steps=3) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for job in jobs:
        launch(job)
    first, second, third = (weights_digest(job.out / "model") for job in jobs)
    assert first == second != third


def test_a_loss_that_is_not_finite_ends_the_training_and_says_what_to_do(make_job: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    job = make_job(max_steps=3)
    broken = tmp_path / "broken"
    shutil.copytree(job.base.location, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"] *= float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"loss is nan at step 1 of 3.*set training\.learning_rate to a third"):
        launch(job.model_copy(update={"base": job.base.model_copy(update={"location": str(broken)})}))


def test_should_stop_ends_it_with_a_checkpoint(make_job: Any) -> None:
    job = make_job(max_steps=100_000)
    with pytest.raises(ChildError, match="was stopped: the flow run is Cancelled"):
        launch(job, should_stop=lambda: "the flow run is Cancelled")
