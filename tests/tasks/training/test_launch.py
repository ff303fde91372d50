"""Real trainings of a tiny model, in child processes under torchrun."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tasks.errors import AttemptError, StoppedError, TrainingError
from tasks.models import weights_digest
from tasks.training import checkpoint
from tasks.training.job import TrainingJob
from tasks.training.launch import launch
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.spec import AdvancedTraining
from tests.tasks.training.conftest import cpu_plan, losses, signal_processes

pytestmark = pytest.mark.slow


def kill_at(job: TrainingJob, step: int, number: int) -> list[int]:
    """Train until `step`, then send `number` to the rank; the ranks killed."""
    killed: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "metrics" and event["step"] >= step and not killed:
            killed.extend(signal_processes(job, number))

    with pytest.raises(AttemptError):
        launch(job, on_event=on_event)
    return killed


@pytest.mark.parametrize("method", [Full(), Lora(rank=8, dropout=0.1)], ids=["full", "lora"])
def test_a_killed_training_ends_with_the_same_weights_as_an_uninterrupted_one(make_job: Any, method: Any) -> None:
    advanced = AdvancedTraining(checkpoint_steps=3)
    whole, broken = (make_job(name, method, epochs=4, advanced=advanced) for name in ("whole", "broken"))
    launch(whole)
    assert kill_at(broken, step=7, number=signal.SIGKILL)
    found, _ = checkpoint.newest(broken.checkpoints)
    assert found is not None
    assert launch(broken)["resumed_from"] == found.step >= 6
    assert weights_digest(broken.out / "model") == weights_digest(whole.out / "model")
    assert losses(broken) == losses(whole)


def test_sigterm_leaves_a_checkpoint_of_that_very_step(make_job: Any) -> None:
    job = make_job(epochs=4, advanced=AdvancedTraining(checkpoint_steps=1000))
    kill_at(job, step=4, number=signal.SIGTERM)
    found, _ = checkpoint.newest(job.checkpoints)
    assert found is not None
    assert found.step >= 4
    assert launch(job)["resumed_from"] == found.step


def test_accumulation_packing_and_two_processes_change_neither_loss_nor_weights(make_job: Any) -> None:
    """The whole set is one batch, so that padded and packed rows are the same documents."""
    plans = {
        "one": cpu_plan(micro_batch=160),
        "two": cpu_plan(devices=2, micro_batch=40, accumulation=2, zero_stage=2),
        "two packed": cpu_plan(devices=2, micro_batch=40, accumulation=2, zero_stage=1),
    }
    found: dict[str, tuple[list[float], dict[str, Any]]] = {}
    for name, plan in plans.items():
        packed = {"packing": True, "max_length": 128} if "packed" in name else {}
        job = make_job(name, plan=plan, batch_size=160, max_steps=4, learning_rate=1e-3, **packed)
        launch(job)
        found[name] = losses(job), load_file(job.out / "model" / "model.safetensors")
    right, weights = found["one"]
    for name in plans:
        assert found[name][0] == pytest.approx(right, abs=1e-5), name
        assert max(float((found[name][1][key] - weights[key]).abs().max()) for key in weights) < 1e-5, name


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


def test_a_loss_that_is_not_finite_ends_the_attempt_without_a_checkpoint(make_job: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    job = make_job(max_steps=3)
    broken = tmp_path / "broken"
    shutil.copytree(job.base.location, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"] *= float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"loss is nan at step 1 of 3, with a learning rate of up to 0\.003") as caught:
        launch(job.model_copy(update={"base": job.base.model_copy(update={"location": str(broken)})}))
    assert caught.value.failure == "loss_not_finite"
    assert checkpoint.newest_step(job.checkpoints) == 0


def test_nothing_is_written_from_weights_that_are_not_finite(make_job: Any, tmp_path: Path) -> None:
    """One weight is infinite from the start, that of a token which never comes: no loss shows it."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    job = make_job(epochs=1, advanced=AdvancedTraining(checkpoint_steps=1, validate_steps=1))
    config = AutoConfig.from_pretrained(job.base.location)
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[1, 0] = float("inf")
    model.save_pretrained(tmp_path / "infinite")
    base = job.base.model_copy(update={"location": str(tmp_path / "infinite")})
    with pytest.raises(AttemptError, match="A weight is not finite at step 1 of 10") as caught:
        launch(job.model_copy(update={"base": base}))
    assert caught.value.failure == "loss_not_finite"
    assert not (job.checkpoints / "best").exists()
    assert checkpoint.newest_step(job.checkpoints) == 0


@pytest.mark.parametrize("devices", [1, 2])
def test_every_line_of_every_rank_arrives_once_and_with_its_rank(make_job: Any, tmp_path: Path, devices: int) -> None:
    job = make_job(plan=cpu_plan(devices=devices, micro_batch=8, zero_stage=2 if devices > 1 else 0))
    model = tmp_path / "loud"  # a model with code of its own, which prints and then fails
    shutil.copytree(job.base.location, model)
    config = json.loads((model / "config.json").read_text())
    loud = {"AutoModelForCausalLM": "loud.Loud", "AutoConfig": "loud.LoudConfig"}
    (model / "config.json").write_text(json.dumps(config | {"model_type": "loud", "auto_map": loud}))
    (model / "loud.py").write_text(LOUD)
    log, events, lines = tmp_path / "train.log", [], []
    base = job.base.model_copy(update={"location": str(model), "trust_remote_code": True})
    with pytest.raises(AttemptError) as caught:
        launch(job.model_copy(update={"base": base}), log=log, on_line=lines.append, on_event=events.append)
    for rank in range(devices):
        said = [line for line in lines if line.startswith(f"[rank {rank}] said ")]
        assert said == [f"[rank {rank}] said {number}" for number in range(500)]
        assert sum(line.startswith(f"[rank {rank}] warned ") for line in lines) == 500
        assert f"[rank {rank}] KeyError: 'the last line of {rank}'" in lines
    assert [event["kind"] for event in events] == ["started", "progress"]
    assert re.fullmatch(r"rank \d ended with KeyError: 'the last line of \d'", caught.value.found)
    assert caught.value.failure == "other"
    assert any("KeyError: 'the last line of " in line for line in caught.value.tail)
    assert [line for line in log.read_text().splitlines() if "@event" not in line] == lines
    assert not (job.checkpoints / "output").exists()


LOUD = """
import os, sys
from transformers import LlamaConfig, LlamaForCausalLM

class LoudConfig(LlamaConfig):
    model_type = "loud"

class Loud(LlamaForCausalLM):
    config_class = LoudConfig

    def forward(self, **_):
        rank = os.environ["RANK"]
        for number in range(500):
            print("said", number)
            print("warned", number, file=sys.stderr)
        raise KeyError("the last line of " + rank)
"""


def test_progress_is_told_from_the_start_to_the_end(make_job: Any) -> None:
    events: list[dict[str, Any]] = []
    launch(make_job(max_steps=3), on_event=events.append)
    kinds = [event["kind"] for event in events]
    assert kinds[:2] == ["started", "progress"]
    assert [event["done"] for event in events if event["kind"] == "progress"] == [0, 1, 2, 3]


def test_should_stop_ends_it_with_a_checkpoint(make_job: Any) -> None:
    job = make_job(max_steps=100_000)
    with pytest.raises(StoppedError, match="was stopped: the flow run is Cancelled"):
        launch(job, should_stop=lambda: "the flow run is Cancelled")
