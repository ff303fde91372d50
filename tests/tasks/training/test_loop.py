"""The loop of one rank, around DeepSpeed's engine, in this process: what it says, when it ends, what its options change."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.training.job import TrainingJob
from tasks.training.loop import Loop, Progress
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.reading import read_sequences
from tasks.training.schedule import learning_rate
from tasks.training.spec import AdvancedTraining, EarlyStopping
from tests.tasks.training.conftest import MakeJob, cpu_plan

Weights = dict[str, torch.Tensor]
Train = Callable[[TrainingJob], tuple[Loop, Progress]]


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of this process alone."""
    from tasks.training import engine

    before = signal.getsignal(signal.SIGTERM)
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update({**variables, "DS_ACCELERATOR": "cpu"})
    engine.start_processes(cpu_plan())
    yield
    torch.distributed.destroy_process_group()
    signal.signal(signal.SIGTERM, before)
    for name in variables:
        os.environ.pop(name)


@pytest.fixture
def train(group: None) -> Train:
    return run


def run(job: TrainingJob) -> tuple[Loop, Progress]:
    """Train `job` here, as a worker does."""
    loop = start(job)
    loop.resume()
    return loop, loop.run()


def start(job: TrainingJob) -> Loop:
    from transformers import set_seed

    from tasks.training import engine

    job.checkpoints.mkdir(parents=True, exist_ok=True)
    model = job.method.load(job.base, torch.float32)
    set_seed(job.seed)
    wrapped = job.method.wrap(model)
    wrapped.train()
    peak, _ = learning_rate(job.spec, job.method.adapter, job.rate_factor)
    started = engine.start(wrapped, engine.configuration(job.plan, job.spec), job.plan, job.spec, peak)
    return Loop(job, started, *(read_sequences(path) for path in (job.train_file, job.validation_file)))


def weights(loop: Loop) -> Weights:
    learned = loop.engine.module.named_parameters()
    return {name: parameter.detach().clone() for name, parameter in learned if parameter.requires_grad}


def points(progress: Progress, name: str) -> list[float]:
    return [point[name] for point in progress.history if name in point]


def events(capfd: pytest.CaptureFixture[str], kind: str) -> list[dict[str, Any]]:
    lines = [line.partition("@event ")[2] for line in capfd.readouterr().out.splitlines() if "@event " in line]
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def far_apart(one: Weights, other: Weights) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_accumulation_and_packing_change_neither_loss_nor_weights(train: Train, make_job: MakeJob) -> None:
    """The whole set is one batch, so that padded and packed rows are the same documents."""
    plans = {
        "padded": cpu_plan(micro_batch=160), "in two": cpu_plan(micro_batch=80, accumulation=2),
        "in four": cpu_plan(micro_batch=40, accumulation=4), "packed": cpu_plan(micro_batch=160),
        "packed in four": cpu_plan(micro_batch=20, accumulation=4),
    }  # fmt: skip
    results: dict[str, tuple[Weights, list[float]]] = {}
    for name, plan in plans.items():
        packed = {"packing": True, "max_length": 128} if "packed" in name else {}
        loop, progress = train(make_job(name, plan=plan, batch_size=160, max_steps=4, learning_rate=1e-3, **packed))
        results[name] = weights(loop), points(progress, "loss")
    right, losses = results["padded"]
    assert losses[-1] < losses[0] - 0.1
    for name in plans:
        assert results[name][1] == pytest.approx(losses, abs=1e-5), name
        assert far_apart(results[name][0], right) < 1e-5, name


def test_the_loss_of_the_first_step_is_the_mean_over_the_supervised_tokens(train: Train, make_job: MakeJob) -> None:
    job = make_job(batch_size=160, max_steps=1, plan=cpu_plan(micro_batch=40, accumulation=4))
    model = job.method.load(job.base, torch.float32)
    sequences = read_sequences(job.train_file)
    total, count = 0.0, 0
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        ids = torch.from_numpy(sequences.tokens[start:end].astype("int64"))
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        for position in range(1, len(ids)):
            if sequences.supervised[start + position]:
                total -= float(logs[position - 1, ids[position]])
                count += 1
    _, progress = train(job)
    assert points(progress, "loss") == [pytest.approx(total / count, abs=1e-5)]


def test_what_is_said_of_a_step(train: Train, make_job: MakeJob, capfd: pytest.CaptureFixture[str]) -> None:
    loop, progress = train(make_job(max_steps=4, advanced=AdvancedTraining(clip_norm=0.0)))
    out = capfd.readouterr().out
    said = [json.loads(line.partition("@event ")[2]) for line in out.splitlines() if "@event " in line]
    reports = [event for event in said if event["kind"] == "metrics" and "loss" in event]
    assert [event["step"] for event in reports] == [1, 2, 3, 4]
    for event in reports:
        assert 0 < event["supervised_tokens_per_second"] < event["tokens_per_second"]
        assert 0 < event["mfu"] < 1.5
        assert 0 < event["memory_gib"] < 64
        assert event["step_seconds"] > 0
        assert event["gradient_norm"] > 0
    left = [event["seconds_left"] for event in said if event["kind"] == "progress"]
    assert left[-1] == 0
    assert all(seconds > 0 for seconds in left[:-1])
    notes = [event["text"] for event in said if event["kind"] == "note"]
    assert any(text.startswith("loss from hidden states") for text in notes)
    assert points(progress, "gradient_norm") == [event["gradient_norm"] for event in reports]
    assert loop.signals.from_hidden


def test_the_gradients_norm_is_that_of_the_mean_loss_before_clipping(train: Train, make_job: MakeJob) -> None:
    norms = []
    for name, clip in (("free", 0.0), ("clipped", 1e-3)):
        for plan in (cpu_plan(micro_batch=160), cpu_plan(micro_batch=40, accumulation=4)):
            job = make_job(f"{name}{plan.accumulation}", plan=plan, batch_size=160, max_steps=1,
                           advanced=AdvancedTraining(clip_norm=clip))  # fmt: skip
            norms += points(train(job)[1], "gradient_norm")
    job = make_job("by hand", batch_size=160, max_steps=1)
    model, sequences = job.method.load(job.base, torch.float32), read_sequences(job.train_file)
    from tasks.training.data import collate
    from tasks.training.losses import summed_cross_entropy

    ids, mask, labels = collate(sequences, range(160), 0)
    loss = summed_cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels) / sequences.learned(range(160))
    loss.backward()
    by_hand = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in model.parameters()))
    assert norms == pytest.approx([by_hand] * 4, rel=1e-4)


def test_training_ends_where_validation_gains_no_more_and_ends_there_again(
    train: Train, make_job: MakeJob, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ten nats are never gained again after the first validation."""
    spec = {"epochs": 4, "advanced": AdvancedTraining(validate_steps=2, checkpoint_steps=1)}
    job = make_job("stops", **spec, early_stopping=EarlyStopping(patience=3, min_delta=9.0))
    _, progress = train(job)
    assert progress.step == 8  # validations at 2, 4, 6 and 8: three after the best
    assert len(points(progress, "validation_loss")) == 4
    notes = [event["text"] for event in events(capfd, "note")]
    assert "no gain in 3 validations: training ends at step 8 of 40" in notes
    _, again = train(job)  # from the checkpoint before the end
    assert (again.step, again.best_loss) == (8, progress.best_loss)
    never, _ = make_job("never", **{**spec, "epochs": 1}), None
    assert train(never)[1].step == 10


def test_every_schedule_is_followed(train: Train, make_job: MakeJob) -> None:
    rates = {}
    for schedule in ("cosine", "linear", "constant", "wsd"):
        advanced = AdvancedTraining.model_validate({"schedule": schedule, "warmup_share": 0.1, "validate_steps": 100})
        _, progress = train(make_job(schedule, max_steps=10, batch_size=4, advanced=advanced))
        rates[schedule] = points(progress, "learning_rate")
    assert rates["constant"] == [3e-3] * 10
    assert rates["wsd"][:9] == [3e-3] * 9 > rates["wsd"][9:]
    assert rates["linear"][5] == pytest.approx(3e-3 * (1 - 0.9 * 4 / 9))
    assert len({tuple(values) for values in rates.values()}) == 4


@pytest.mark.parametrize("method", [Full(), Lora(rank=4)], ids=["full", "lora"])
def test_neftune_changes_training_and_neither_validation_nor_what_accumulation_does(
    train: Train, make_job: MakeJob, method: Any
) -> None:
    results = {}
    for name, alpha, plan in (
        ("without", 0.0, cpu_plan()), ("with", 5.0, cpu_plan()), ("again", 5.0, cpu_plan()),
        ("in four", 5.0, cpu_plan(micro_batch=4, accumulation=4)), ("more", 10.0, cpu_plan()),
    ):  # fmt: skip
        advanced = AdvancedTraining(neftune_alpha=alpha, validate_steps=1)
        loop, progress = train(make_job(name, method, plan=plan, max_steps=2, learning_rate=1e-9, advanced=advanced))
        results[name] = points(progress, "loss"), points(progress, "validation_loss"), weights(loop)
    assert len({results[name][0][0] for name in ("without", "with", "more")}) == 3
    assert results["with"][0] == results["again"][0]
    assert far_apart(results["with"][2], results["again"][2]) == 0
    assert results["in four"][0] == pytest.approx(results["with"][0], abs=1e-5)
    for name in results:  # at a rate of nothing: the same model
        assert results[name][1] == pytest.approx(results["without"][1], abs=1e-5)


class Driver:
    """Notes when it is called, and adds a constant to the loss."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def extra_loss(self, model: Any) -> torch.Tensor:
        return 3.0 * next(parameter for parameter in model.parameters() if parameter.requires_grad).sum()

    def before_step(self, step: int) -> None:
        self.calls.append(("before", step))

    def after_step(self, step: int) -> None:
        self.calls.append(("after", step))

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def facts(self) -> dict[str, float]:
        return {"calls": float(len(self.calls))}


def test_a_methods_driver_is_called_around_each_step_and_its_term_counts_once(group: None, make_job: MakeJob) -> None:
    gradients = {}
    for name, plan in (("one", cpu_plan()), ("four", cpu_plan(micro_batch=4, accumulation=4))):
        for term in (False, True):
            loop = start(make_job(f"{name}{term}", plan=plan, max_steps=2, advanced=AdvancedTraining(clip_norm=0.0)))
            driver = Driver()
            first = next(parameter for parameter in loop.engine.module.parameters() if parameter.requires_grad)
            if term:
                loop.driver = driver
                driver.before_step = lambda step, d=driver, p=first, n=name: (  # type: ignore[method-assign, misc]
                    d.calls.append(("before", step)), gradients.setdefault((n, step), p.grad.clone()))  # fmt: skip
            else:
                step_of = loop.driver.before_step
                loop.driver.before_step = lambda step, p=first, n=name: (  # type: ignore[method-assign, misc]
                    step_of(step), gradients.setdefault((n, "none", step), p.grad.clone()))  # fmt: skip  # noqa: B023
            progress = loop.run()
            if term:
                assert driver.calls == [("before", 0), ("after", 0), ("before", 1), ("after", 1)]
                assert points(progress, "calls") == [2.0, 4.0]
        with_term, without = gradients[name, 0], gradients[name, "none", 0]
        torch.testing.assert_close(with_term - without, torch.full_like(without, 3.0), atol=1e-4, rtol=0)


def test_the_best_weights_stay_where_validation_gets_worse(train: Train, make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("worse", epochs=2, learning_rate=0.5, advanced=AdvancedTraining(validate_steps=1, schedule="constant"))
    _, progress = train(job)
    losses = points(progress, "validation_loss")
    assert progress.best_loss == min(losses)
    assert progress.best_step == losses.index(min(losses)) + 1
    assert json.loads((job.checkpoints / "best" / "best.json").read_text()) == {
        "step": progress.best_step, "loss": progress.best_loss,
    }  # fmt: skip
