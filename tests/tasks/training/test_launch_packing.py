"""Real trainings on packs, in child processes under torchrun."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import AttemptError
from tasks.models import describe, weights_digest
from tasks.training import checkpoint
from tasks.training.launch import launch
from tasks.training.methods.lora import Lora
from tasks.training.spec import AdvancedTraining
from tests.tasks.training.conftest import cpu_plan, losses, signal_processes
from tests.tasks.training.test_isolation import opt
from tests.tasks.training.test_packs import build

pytestmark = pytest.mark.slow

PACKED: dict[str, Any] = {"packing": True, "max_length": 128, "batch_size": 4, "epochs": 3}


def test_a_killed_training_on_packs_ends_with_the_same_weights_as_an_uninterrupted_one(make_job: Any) -> None:
    spec = {**PACKED, "advanced": AdvancedTraining(checkpoint_steps=3)}
    whole, broken = (make_job(name, Lora(rank=8, dropout=0.1), cpu_plan(micro_batch=4), **spec) for name in ("whole", "broken"))
    result = launch(whole)
    per_epoch = -(-result["rows"] // 4)
    assert result["steps"] == 3 * per_epoch

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "metrics" and event["step"] == per_epoch + 4:  # in the second epoch, whose packs are others
            signal_processes(broken, signal.SIGKILL)

    with pytest.raises(AttemptError):
        launch(broken, on_event=on_event)
    found, _ = checkpoint.newest(broken.checkpoints)
    assert found is not None
    assert launch(broken)["resumed_from"] == found.step > per_epoch
    assert weights_digest(broken.out / "model") == weights_digest(whole.out / "model")
    assert losses(broken) == losses(whole)


def test_accumulation_and_two_processes_change_no_loss_on_packs(make_job: Any) -> None:
    one = make_job("one", plan=cpu_plan(micro_batch=4), **PACKED)
    four = make_job("four", plan=cpu_plan(micro_batch=1, accumulation=4), **PACKED)
    two = make_job("two", plan=cpu_plan(devices=2, micro_batch=2, zero_stage=3), **PACKED)
    results = [launch(job) for job in (one, four, two)]
    assert len({(result["steps"], result["tokens"]) for result in results}) == 1
    for other in (four, two):
        assert losses(other) == pytest.approx(losses(one), rel=1e-4)


def test_packing_takes_fewer_steps_and_its_fill_is_said(make_job: Any) -> None:
    packed = make_job("packed", plan=cpu_plan(micro_batch=4), **{**PACKED, "epochs": 1})
    padded = make_job("padded", plan=cpu_plan(micro_batch=4), epochs=1, batch_size=4)
    said: dict[str, list[dict[str, Any]]] = {"packed": [], "padded": []}
    results = {job.key: launch(job, on_event=said[job.key].append) for job in (packed, padded)}
    assert results["packed"]["tokens"] == results["padded"]["tokens"]  # every token once
    assert results["padded"]["rows"] == 160
    assert results["packed"]["rows"] < 60
    assert results["packed"]["fill"] > 0.95
    texts = {
        key: [event["text"] for event in events if event["kind"] == "note" and "packs" in event["text"]]
        for key, events in said.items()
    }
    assert texts["padded"] == []
    assert texts["packed"] == [
        f"160 sequences in {results['packed']['rows']} packs of at most 128 tokens: {results['packed']['fill']:.1%} of the "
        f"positions computed on hold a token; without packing it would be {results['padded']['fill']:.1%}"
    ]
    started = next(event for event in said["packed"] if event["kind"] == "started")
    assert (started["rows"], started["fill"]) == (results["packed"]["rows"], results["packed"]["fill"])


def test_a_model_whose_documents_see_each_other_is_refused_before_the_first_step(make_job: Any, tmp_path: Path) -> None:
    config = opt()[1]
    config.vocab_size = 512
    build(lambda: (opt()[0], config), "eager").save_pretrained(tmp_path / "opt")
    base = describe("opt", tmp_path / "opt")
    events: list[dict[str, Any]] = []
    job = make_job(plan=cpu_plan(micro_batch=4), **PACKED).model_copy(update={"base": base})
    with pytest.raises(AttemptError, match=r"OPTForCausalLM does not keep packed documents apart") as caught:
        launch(job, on_event=events.append)
    assert caught.value.failure == "other"
    assert events == []
    assert not (job.checkpoints / "best").exists()
