"""Real failures of real trainings: what is tried again, how often, and with what result."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.errors import StoppedError, TrainingError
from tasks.models import weights_digest
from tasks.training.attempts import train
from tasks.training.feeding import Feed
from tasks.training.job import TrainingJob
from tasks.training.launch import launch
from tasks.training.reading import read_sequences
from tasks.training.recovery import Policy
from tasks.training.spec import AdvancedTraining
from tests.conftest import ROOT, progression, write_sequences
from tests.tasks.training.conftest import build_job, cpu_plan, losses, signal_processes

pytestmark = pytest.mark.slow

SPEC: dict[str, Any] = {"epochs": 4, "advanced": AdvancedTraining(checkpoint_steps=3)}
POISON = 1  # a word that no progression has
HASTY = Policy(waits=(0.1, 0.1, 0.1))
# A process of its own that trains: LIMIT bounds the memory of all that it starts, WAIT is the wait before a second attempt.
TRAINING = """
import json, resource, sys
from pathlib import Path
from tasks.training.attempts import train
from tasks.training.job import TrainingJob
from tasks.training.recovery import Policy
path, limit, wait = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
job = TrainingJob.model_validate_json(Path(path).read_text())
events = []
result, course = train(job, policy=Policy(waits=(wait,)), on_event=events.append)
started = [event["resumed_from"] for event in events if event["kind"] == "started"]
print(json.dumps({"course": course.model_dump(), "started": started, "result": result}))
"""


class Watch:
    """Counts the attempts of a training, and calls `act` once, when step `step` was reported."""

    def __init__(self, step: int = 0, act: Any = None) -> None:
        self.step, self.act = step, act
        self.resumed_from: list[int] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "started":
            self.resumed_from.append(event["resumed_from"])
        if self.act and event["kind"] == "metrics" and event["step"] >= self.step:
            act, self.act = self.act, None
            assert act()


@pytest.fixture(scope="module")
def whole(tiny_base: ModelRef, sequences_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A training that was not disturbed."""
    job = build_job(tiny_base, sequences_folder, tmp_path_factory.mktemp("whole"), **SPEC)
    watch = Watch()
    _, course = train(job, on_event=watch)
    assert (watch.resumed_from, course.recoveries) == ([0], ())
    assert not (job.checkpoints / "recovery.json").exists()
    return job


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "tuneflow" and r.levelno == logging.WARNING]


@pytest.mark.parametrize("launcher", [False, True], ids=["the rank", "torchrun"])
def test_a_preempted_training_goes_on_at_once(
    make_job: Any, whole: TrainingJob, launcher: bool, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(**SPEC)
    watch = Watch(7, lambda: signal_processes(job, signal.SIGTERM, launcher))
    result, course = train(job, on_event=watch)
    assert [(each.failure, each.step) for each in course.recoveries] == [("preempted", result["resumed_from"])]
    assert watch.resumed_from == [0, result["resumed_from"]]
    assert result["resumed_from"] >= 7  # the checkpoint of the very step at which it was stopped
    assert weights_digest(job.out / "model") == weights_digest(whole.out / "model")
    assert losses(job) == losses(whole)
    assert warnings(caplog) == [
        "train: preempted: the training processes got SIGTERM from outside, and wrote a checkpoint; training goes on from the "
        f"checkpoint at step {result['resumed_from']}: going on at once"
    ]


def test_a_killed_rank_is_replaced_after_a_wait(make_job: Any, whole: TrainingJob, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job(**SPEC)
    watch = Watch(7, lambda: signal_processes(job, signal.SIGKILL))
    result, course = train(job, on_event=watch, policy=HASTY)
    assert [(each.failure, each.step) for each in course.recoveries] == [("infrastructure", result["resumed_from"])]
    assert watch.resumed_from == [0, result["resumed_from"]]
    assert result["resumed_from"] >= 6
    assert weights_digest(job.out / "model") == weights_digest(whole.out / "model")
    assert losses(job) == losses(whole)
    assert [line.partition(";")[0] for line in warnings(caplog)] == [
        "train: infrastructure: rank 0 was killed by SIGKILL, and not for want of memory"
    ]
    assert json.loads((job.checkpoints / "recovery.json").read_text())["recoveries"] == [
        each.model_dump() for each in course.recoveries
    ]


def test_a_rank_that_is_killed_each_time_is_given_up(make_job: Any) -> None:
    job = make_job(epochs=4, advanced=AdvancedTraining(checkpoint_steps=1000))
    started: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "started":
            started.append(event["resumed_from"])
            signal_processes(job, signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"^Training failed \(infrastructure\): rank 0 was killed by SIGKILL") as caught:
        train(job, on_event=kill, policy=Policy(waits=(0.1,)))
    assert started == [0, 0]
    assert caught.value.failure == "infrastructure"
    assert "Done already: infrastructure at step 0, another attempt after 0.1 s. Look at the machine" in str(caught.value)


def test_a_stop_that_was_asked_for_is_no_failure(make_job: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The processes get SIGTERM before anyone has told this one of the cancellation."""
    job = make_job(**SPEC)
    asked: list[str] = []

    def stop() -> bool:
        asked.append("its flow run is Cancelling")
        return bool(signal_processes(job, signal.SIGTERM))

    watch = Watch(7, stop)
    with pytest.raises(StoppedError, match="was stopped: its flow run is Cancelling"):
        train(job, on_event=watch, should_stop=lambda: asked[0] if asked else "")
    assert watch.resumed_from == [0]
    assert warnings(caplog) == []
    assert not (job.checkpoints / "recovery.json").exists()


def test_an_error_of_the_user_is_not_tried_again(make_job: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job().model_copy(update={"validation_file": tmp_path / "absent.parquet"})
    log = tmp_path / "train.log"
    with pytest.raises(TrainingError, match=r"absent\.parquet") as caught:
        train(job, log_file=log)
    assert str(caught.value).startswith("Training failed (data, code or settings): rank 0 ended with FileNotFoundError: ")
    assert "A second attempt would end the same way, so there was none.\nIts last lines:\n" in str(caught.value)
    assert "  | [rank 0] Traceback (most recent call last):" in str(caught.value)
    assert log.read_text().count('"kind": "failed"') == 1
    assert warnings(caplog) == []


def save_unnormalized(base: ModelRef, folder: Path, root: float, poison: float = 1.0) -> ModelRef:
    """A model whose norms only multiply by 50 what is far below `root`: activations are products, and can overflow.

    The embedding of the word POISON is multiplied by `poison`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.location)
    model.config.rms_norm_eps = root**2  # x / sqrt(mean(x²) + root²) is x / root
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(50 * root)
        model.get_input_embeddings().weight[POISON] *= poison
    model.save_pretrained(folder)
    return base.model_copy(update={"location": str(folder)})


@pytest.fixture
def explosive(tiny_base: ModelRef, tmp_path: Path) -> ModelRef:
    """A model that a high learning rate makes overflow."""
    return save_unnormalized(tiny_base, tmp_path / "explosive", 1e15)


def test_a_loss_that_is_not_finite_is_mended_once_by_half_the_rate(
    make_job: Any, explosive: ModelRef, caplog: pytest.LogCaptureFixture
) -> None:
    rare = AdvancedTraining(checkpoint_steps=1000, validate_steps=1000)
    job, half = (
        make_job(name, max_steps=6, learning_rate=rate, advanced=rare).model_copy(update={"base": explosive})
        for name, rate in (("fast", 0.06), ("slow", 0.03))
    )
    watch = Watch()
    _, course = train(job, on_event=watch)
    assert [(each.failure, each.step) for each in course.recoveries] == [("loss_not_finite", 0)]
    assert (watch.resumed_from, course.rate_factor) == ([0, 0], 0.5)
    (said,) = warnings(caplog)
    assert said.startswith("train: loss not finite: The training loss is nan at step ")
    assert said.endswith(
        " of 6, with a learning rate of up to 0.06; training goes on from the start: "
        "0.5 times the learning rate that was asked for"
    )
    launch(half)
    assert weights_digest(job.out / "model") == weights_digest(half.out / "model")
    assert losses(job) == losses(half)


@pytest.fixture
def poisoned(tiny_base: ModelRef, tmp_path: Path) -> ModelRef:
    """A model with a word whose attention overflows, though each weight is finite."""
    return save_unnormalized(tiny_base, tmp_path / "poisoned", 1e19, poison=1e20)


def test_a_checkpoint_whose_loss_is_not_finite_is_not_gone_back_to(
    poisoned: ModelRef, sequences_folder: Path, tmp_path: Path
) -> None:
    random = Random(0)
    tokens = [progression(random) for _ in range(160)]
    write_sequences(tmp_path / "train.parquet", tokens)
    write_sequences(tmp_path / "validation.parquet", tokens[:4])
    last = Feed(read_sequences(tmp_path / "train.parquet"), 16, 1, 0).rows(9).documents[0]
    tokens[last][5] = POISON
    write_sequences(tmp_path / "train.parquet", tokens)
    job = build_job(poisoned, tmp_path, tmp_path / "job", learning_rate=1e-4, advanced=AdvancedTraining(checkpoint_steps=3))
    watch = Watch()
    with pytest.raises(TrainingError, match=r"The training loss is nan at step 10 of 10, with a"):
        train(job, on_event=watch)
    assert watch.resumed_from == [0, 6]  # not 9: its weights are finite, but the loss of step 10 is computed from them
    assert [folder.name for folder in job.checkpoints.glob("step-*")] == ["step-00000006"]


def test_a_loss_that_is_not_finite_at_half_the_rate_ends_the_training(make_job: Any, explosive: ModelRef) -> None:
    rare = AdvancedTraining(checkpoint_steps=1000)
    job = make_job(learning_rate=1.0, advanced=rare).model_copy(update={"base": explosive})
    watch = Watch()
    with pytest.raises(TrainingError, match=r"^Training failed \(loss not finite\): .+ at step \d+ of 10, with a") as caught:
        train(job, on_event=watch)
    assert watch.resumed_from == [0, 0]
    assert caught.value.failure == "loss_not_finite"
    assert "Half of the learning rate was no better: set training.learning_rate to 0.1" in str(caught.value)
    assert not list(job.checkpoints.glob("step-*"))


@pytest.fixture
def wide(tiny_base: ModelRef, tmp_path: Path) -> ModelRef:
    """A small model whose memory is in its wide layer: it grows with the micro-batch."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=6144, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    return tiny_base.model_copy(update={"location": str(tmp_path / "wide")})


def test_a_training_out_of_memory_goes_on_with_half_the_micro_batch(wide: ModelRef, tmp_path: Path) -> None:
    """The data segment of a rank is limited to 3 GiB: 64 long sequences at once need 3.5, 32 need 2.7, short ones less."""
    random = Random(0)
    tokens = [[random.randrange(3, 512) for _ in range(length)] for length in [20] * 64 + [200] * 64]
    write_sequences(tmp_path / "train.parquet", tokens)
    write_sequences(tmp_path / "validation.parquet", tokens[:4])
    # With the seed 0 the short batch comes first, so that there is a checkpoint to go on from.
    spec: dict[str, Any] = {"batch_size": 64, "max_steps": 2, "seed": 0, "advanced": AdvancedTraining(checkpoint_steps=1)}
    job = build_job(wide, tmp_path, tmp_path / "large", plan=cpu_plan(micro_batch=64), **spec)
    small = build_job(wide, tmp_path, tmp_path / "small", plan=cpu_plan(micro_batch=32, accumulation=2), **spec)
    said = json.loads(start(job, limit=3050 * 2**20).communicate(timeout=600)[0].splitlines()[-1])
    (recovery,) = said["course"]["recoveries"]
    assert (recovery["failure"], recovery["step"]) == ("out_of_memory", 1)
    assert recovery["action"] == "micro-batch 32 instead of 64, with accumulation 2: still 64 sequences a step"
    assert "DefaultCPUAllocator: can't allocate memory" in recovery["reason"]
    assert said["started"] == [0, 1]
    told = TrainingJob.model_validate_json((job.checkpoints / "job.json").read_text())
    assert (told.plan.micro_batch, told.plan.accumulation) == (32, 2)
    launch(small)
    assert losses(job) == pytest.approx(losses(small), rel=1e-5)
    close(job, small)


def close(one: TrainingJob, other: TrainingJob) -> None:
    import torch
    from safetensors.torch import load_file

    first, second = (load_file(job.out / "model" / "model.safetensors") for job in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert float(torch.linalg.vector_norm(tensor - second[name]) / torch.linalg.vector_norm(tensor)) < 1e-5, name


def start(job: TrainingJob, limit: int = 0, wait: float = 0.1) -> "subprocess.Popen[str]":
    path = job.checkpoints.parent / "asked.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(job.model_dump_json())
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(path), str(limit), str(wait)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_run_that_is_killed_between_two_attempts_remembers_the_first(make_job: Any, whole: TrainingJob) -> None:
    job = make_job(**SPEC)
    process = start(job, wait=600)
    try:
        until((job.checkpoints / "step-00000003" / "complete.json").exists)
        assert signal_processes(job, signal.SIGKILL)
        until((job.checkpoints / "recovery.json").exists)
    finally:
        process.kill()
        process.communicate()
    watch = Watch()
    result, course = train(job, on_event=watch)
    assert [(each.failure, each.action) for each in course.recoveries] == [("infrastructure", "another attempt after 600 s")]
    assert watch.resumed_from == [course.recoveries[0].step] == [result["resumed_from"]]
    assert weights_digest(job.out / "model") == weights_digest(whole.out / "model")
    assert losses(job) == losses(whole)


def until(holds: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
