"""What is decided after a failure, as tables; what it leads to with real failures is in test_attempts.py."""

from typing import Any

import pytest

from tasks.contracts import Recovery
from tasks.errors import StoppedError
from tasks.training import attempts, recovery
from tasks.training.job import TrainingJob
from tasks.training.recovery import Policy, announcement, decide, farewell, first_course, halved
from tasks.training.schedule import learning_rate
from tasks.training.spec import TrainingSpec
from tests.tasks.training.conftest import cpu_plan


def after(job: TrainingJob, *failures: tuple[str, int, int], policy: Policy = recovery.USUAL) -> recovery.Decision:
    """The decision after a row of failures: class, step of the checkpoint at the start of the attempt and at its end."""
    decision = recovery.Decision(first_course(job))
    for failure, begun, reached in failures:
        assert not decision.advice, f"there was no further attempt: {decision.advice}"
        decision = decide(decision.course, failure, "found", job=job, begun=begun, reached=reached, policy=policy)  # type: ignore[arg-type]
    return decision


@pytest.mark.parametrize(
    ("micro_batch", "batch_size", "devices", "expected"),
    [(16, 16, 1, (8, 2)), (16, 16, 2, (8, 1)), (4, 16, 2, (2, 4)), (5, 5, 1, (3, 2)), (3, 5, 1, (2, 3)), (2, 5, 1, (1, 5)),
     (7, 33, 2, (4, 5))],
)  # fmt: skip
def test_half_a_micro_batch_keeps_the_batch(micro_batch: int, batch_size: int, devices: int, expected: tuple[int, int]) -> None:
    size, accumulation = halved(micro_batch, batch_size, devices)
    assert (size, accumulation) == expected
    share = -(-batch_size // devices)
    assert size * (accumulation - 1) < share <= size * accumulation  # everything is computed, and no pass is empty


OOM, STOP, NAN, LOST, HUNG = "out_of_memory", "preempted", "loss_not_finite", "infrastructure", "hung"


@pytest.mark.parametrize(
    ("failures", "advice"),
    [
        ([(OOM, 0, 0)] * 3, ""),
        ([(OOM, 0, 0)] * 4, "Set training.micro_batch_size to 1 or less"),
        ([(OOM, 0, 3), (OOM, 3, 6), (OOM, 6, 9), (OOM, 9, 12)], "Set training.micro_batch_size to 1 or less"),
        ([(NAN, 0, 3)], ""),
        ([(NAN, 0, 3), (NAN, 3, 6)], "set training.learning_rate to 0.0003"),
        ([(STOP, 0, 0)], ""),
        ([(STOP, 0, 0)] * 2, "2 attempts in a row wrote no new checkpoint"),
        ([(STOP, step, step + 1) for step in range(50)], ""),
        ([(STOP, 0, 1), (STOP, 1, 1), (STOP, 1, 2), (STOP, 2, 2)], ""),
        ([(STOP, 0, 1), (STOP, 1, 1), (STOP, 1, 1)], "2 attempts in a row wrote no new checkpoint"),
        ([(STOP, 0, 0), (LOST, 0, 0), (STOP, 0, 0)], ""),
        ([(LOST, 0, 0)] * 3, ""),
        ([(LOST, 0, 0)] * 4, "Look at the machine"),
        ([(LOST, 0, 5), (LOST, 5, 5), (LOST, 5, 5), (LOST, 5, 5)], "Look at the machine"),
        ([(LOST, 0, 5), (LOST, 5, 5), (LOST, 5, 5), (LOST, 5, 6), (LOST, 6, 6)], ""),
        ([(LOST, 0, 0), (STOP, 0, 0)] * 3 + [(LOST, 0, 0)], "Look at the machine"),
        ([(HUNG, 0, 0)] * 3, ""),
        ([(HUNG, 0, 0)] * 4, "Look at the machine"),
        ([(HUNG, 0, 0), (LOST, 0, 0)] * 2, "Look at the machine"),
        ([(HUNG, step, step + 1) for step in range(50)], ""),
        ([("other", 0, 0)], "A second attempt would end the same way"),
    ],
)  # fmt: skip
def test_how_often_what_is_tried(make_job: Any, failures: list[tuple[str, int, int]], advice: str) -> None:
    decision = after(make_job(), *failures)
    assert decision.advice.startswith(advice) if not advice.startswith("set") else advice in decision.advice
    assert bool(decision.advice) == bool(advice)
    assert len(decision.course.recoveries) == len(failures) - bool(advice)


def test_the_waits_grow_while_there_is_no_progress(make_job: Any) -> None:
    job = make_job()
    rows = [(LOST, 0, 0), (LOST, 0, 0), (LOST, 0, 0), (LOST, 0, 4), (LOST, 4, 4)]
    assert [after(job, *rows[: n + 1]).seconds for n in range(5)] == [5, 20, 60, 5, 20]
    assert after(job, (OOM, 0, 0)).seconds == after(job, (STOP, 0, 0)).seconds == after(job, (NAN, 0, 0)).seconds == 0


def test_a_run_that_is_started_again_after_it_gave_up_waits_anew_but_halves_no_more(make_job: Any) -> None:
    job = make_job()
    ended = after(job, (OOM, 0, 0), (OOM, 0, 0), (OOM, 0, 0), (LOST, 0, 0), (LOST, 0, 0), (LOST, 0, 0), (LOST, 0, 0))
    again = recovery.given_up(ended.course)
    assert again.recoveries == ended.course.recoveries
    waiting, full = (
        decide(again, failure, "found", job=job, begun=0, reached=0, policy=recovery.USUAL) for failure in (LOST, OOM)
    )  # type: ignore[arg-type]
    assert (waiting.seconds, waiting.advice) == (5, "")
    assert full.advice.startswith("Set training.micro_batch_size")


def test_a_micro_batch_of_one_cannot_be_halved(make_job: Any) -> None:
    decision = after(make_job(plan=cpu_plan(micro_batch=2, accumulation=8)), (OOM, 0, 0), (OOM, 0, 0))
    assert decision.advice.startswith("A micro-batch is one sequence already. Try training.advanced.activation_checkpointing")


def test_what_was_decided_is_in_the_job_and_its_plan(make_job: Any) -> None:
    job = make_job()
    changed = after(job, (OOM, 0, 3), (NAN, 3, 6)).course.apply(job)
    assert (changed.plan.micro_batch, changed.plan.accumulation, changed.rate_factor) == (8, 2, 0.5)
    assert changed.spec == job.spec
    assert changed.plan.reasons == (
        "out of memory: micro-batch 8 instead of 16, with accumulation 2: still 16 sequences a step",
        "loss not finite: 0.5 times the learning rate that was asked for",
    )
    assert first_course(job).apply(job) == job


@pytest.mark.parametrize("adapter", [True, False])
def test_the_factor_lowers_the_rate_and_is_named(adapter: bool) -> None:
    usual, half = (learning_rate(TrainingSpec(), adapter, factor) for factor in (1.0, 0.5))
    assert half[0] == usual[0] / 2
    assert half[1].endswith(", times 0.5 since the loss was not finite")
    assert "times" not in usual[1]


def test_what_is_said_of_a_recovery_and_of_the_end(make_job: Any) -> None:
    decision = after(make_job(), (STOP, 0, 4), (NAN, 4, 8), (NAN, 8, 8))
    first, second = decision.course.recoveries
    assert announcement(first) == "preempted: found; training goes on from the checkpoint at step 4: going on at once"
    assert announcement(second.model_copy(update={"step": 0})) == (
        "loss not finite: found; training goes on from the start: 0.5 times the learning rate that was asked for"
    )
    assert farewell(decision, "loss_not_finite", "The loss is nan.") == (
        "Training failed (loss not finite): The loss is nan. Done already: preempted at step 4, going on at once; "
        "loss not finite at step 8, 0.5 times the learning rate that was asked for. Half of the learning rate was no better: "
        "set training.learning_rate to 0.0003; if that fails too, look for numbers that are not finite in the base model."
    )


def test_a_course_is_remembered_by_its_own_training_alone(make_job: Any, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job()
    assert attempts.recall(job) == first_course(job)
    course = after(job, (OOM, 0, 3)).course
    path = job.checkpoints / "recovery.json"
    path.parent.mkdir(parents=True)
    path.write_text(course.model_dump_json())
    assert attempts.recall(job) == course
    assert course.recoveries == (
        Recovery(failure="out_of_memory", step=3, reason="found",
                 action="micro-batch 8 instead of 16, with accumulation 2: still 16 sequences a step"),
    )  # fmt: skip
    path.write_text(course.model_copy(update={"key": "another"}).model_dump_json())
    assert attempts.recall(job) == first_course(job)
    path.write_text("{")
    assert attempts.recall(job) == first_course(job)
    assert f"{path} cannot be read" in caplog.text


def test_a_wait_ends_as_soon_as_a_stop_is_asked_for() -> None:
    answers = iter(["", "", "enough"])
    with pytest.raises(StoppedError, match=r"was stopped: enough\."):
        attempts._rest(60.0, lambda: next(answers))
    attempts._rest(0.0, lambda: "")


@pytest.mark.parametrize(
    ("ranks", "micro_batch", "accumulation"), [(1, 4, 4), (2, 4, 2), (3, 4, 2), (4, 4, 1), (8, 2, 1), (32, 1, 1)]
)
def test_another_number_of_ranks_takes_as_many_sequences_a_step(
    make_job: Any, ranks: int, micro_batch: int, accumulation: int
) -> None:
    plan = make_job(plan=cpu_plan(devices=2, micro_batch=4, accumulation=2)).at(ranks).plan
    assert (plan.devices, plan.micro_batch, plan.accumulation) == (ranks, micro_batch, accumulation)
    assert ranks * micro_batch * accumulation >= 16  # the batch
