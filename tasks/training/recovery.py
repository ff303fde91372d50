"""What is done after a failed attempt at a training: pure functions of what was found and of what was done before."""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from tasks.contracts import Recovery, Value
from tasks.errors import FailureClass
from tasks.training.job import TrainingJob
from tasks.training.schedule import learning_rate

Recoverable = Literal["out_of_memory", "preempted", "loss_not_finite", "infrastructure", "hung"]
_PASSING: tuple[FailureClass, ...] = ("infrastructure", "hung")

CLASSES: dict[FailureClass, str] = {
    "out_of_memory": "out of memory",
    "preempted": "preempted",
    "loss_not_finite": "loss not finite",
    "infrastructure": "infrastructure",
    "hung": "hung",
    "other": "data, code or settings",
}


@dataclass(frozen=True)
class Policy:
    """How often what is tried.

    Attributes:
        halvings: times that the micro-batch is halved.
        lowerings: times that the learning rate is halved.
        waits: seconds before each attempt after a failure of the infrastructure, as long as no new checkpoint was written.
        fruitless: preempted attempts in a row without a new checkpoint that are too many.
    """

    halvings: int = 3
    lowerings: int = 1
    waits: tuple[float, ...] = (5.0, 20.0, 60.0)
    fruitless: int = 2


USUAL = Policy()


class Course(Value):
    """How a training goes on after all that happened to it: `recovery.json` beside its checkpoints.

    `fruitless` counts the preempted attempts in a row that wrote no new checkpoint. The first `waited_until` recoveries are of
    a run that gave up: whoever started the next one has looked at the machine, so their waits do not count.
    """

    key: str
    micro_batch: int = Field(ge=1)
    accumulation: int = Field(ge=1)
    rate_factor: float = Field(default=1.0, gt=0, le=1)
    fruitless: int = Field(default=0, ge=0)
    waited_until: int = Field(default=0, ge=0)
    recoveries: tuple[Recovery, ...] = ()

    def apply(self, job: TrainingJob) -> TrainingJob:
        """The job as it is to be tried now."""
        changed = {"micro_batch": self.micro_batch, "accumulation": self.accumulation}
        reasons = (*job.plan.reasons, *(f"{CLASSES[each.failure]}: {each.action}" for each in self.recoveries))
        plan = job.plan.model_copy(update={**changed, "reasons": reasons})
        return job.model_copy(update={"plan": plan, "rate_factor": self.rate_factor})


@dataclass(frozen=True)
class Decision:
    """What comes after a failed attempt: another one on `course` after `seconds`, or, where `advice` is given, the end."""

    course: Course
    seconds: float = 0.0
    advice: str = ""


def first_course(job: TrainingJob) -> Course:
    """The course of a training to which nothing has happened."""
    return Course(key=job.key, micro_batch=job.plan.micro_batch, accumulation=job.plan.accumulation)


def decide(
    course: Course, failure: FailureClass, found: str, *, job: TrainingJob, begun: int, reached: int, policy: Policy
) -> Decision:
    """What to do after an attempt failed.

    Args:
        course: what the attempt went by.
        failure: its class.
        found: the sentence that says what was found.
        job: what is trained, as it was asked.
        begun: step of the newest checkpoint when the attempt started; 0: none.
        reached: the same when it ended.
        policy: how often what is tried.
    """
    fruitless = 0 if failure != "preempted" or reached > begun else course.fruitless + 1
    course = course.model_copy(update={"fruitless": fruitless})
    if failure == "out_of_memory":
        return _halve_micro_batch(course, found, job, reached, policy)
    if failure == "loss_not_finite":
        return _lower_rate(course, found, job, reached, policy)
    if failure in {"infrastructure", "hung"}:
        return _wait(course, failure, found, reached, policy)
    if failure == "preempted":
        if fruitless >= policy.fruitless:
            advice = (
                f"{fruitless} attempts in a row wrote no new checkpoint. Set training.advanced.checkpoint_steps lower, or run "
                "again where processes are stopped less often."
            )
            return Decision(course, advice=advice)
        return Decision(_after(course, "preempted", found, reached, "going on at once"))
    return Decision(course, advice="A second attempt would end the same way, so there was none.")


def halved(micro_batch: int, batch_size: int, devices: int) -> tuple[int, int]:
    """Half the micro-batch, rounded up, and the accumulation with which a step still takes the whole batch.

    >>> halved(16, 16, 1), halved(5, 5, 1), halved(3, 5, 1)
    ((8, 2), (3, 2), (2, 3))
    """
    size = (micro_batch + 1) // 2
    share = math.ceil(batch_size / devices)
    return size, math.ceil(share / size)


def _halve_micro_batch(course: Course, found: str, job: TrainingJob, reached: int, policy: Policy) -> Decision:
    less = "training.advanced.activation_checkpointing: true, a smaller training.max_length, method.kind: lora"
    if course.micro_batch == 1:
        return Decision(course, advice=f"A micro-batch is one sequence already. Try {less}, or a device with more memory.")
    size, accumulation = halved(course.micro_batch, job.spec.batch_size, job.plan.groups)
    if _count(course, "out_of_memory") >= policy.halvings:
        return Decision(course, advice=f"Set training.micro_batch_size to {size} or less; else try {less}.")
    action = (
        f"micro-batch {size} instead of {course.micro_batch}, with accumulation {accumulation}: still "
        f"{job.spec.batch_size} sequences a step"
    )
    smaller = course.model_copy(update={"micro_batch": size, "accumulation": accumulation})
    return Decision(_after(smaller, "out_of_memory", found, reached, action))


def _lower_rate(course: Course, found: str, job: TrainingJob, reached: int, policy: Policy) -> Decision:
    if _count(course, "loss_not_finite") >= policy.lowerings:
        asked, _ = learning_rate(job.spec, job.method.adapter)
        advice = (
            f"Half of the learning rate was no better: set training.learning_rate to {asked / 10:g}; if that fails too, look "
            "for numbers that are not finite in the base model."
        )
        return Decision(course, advice=advice)
    factor = course.rate_factor / 2
    action = f"{factor:g} times the learning rate that was asked for"
    return Decision(_after(course.model_copy(update={"rate_factor": factor}), "loss_not_finite", found, reached, action))


def _wait(course: Course, failure: Recoverable, found: str, reached: int, policy: Policy) -> Decision:
    since = 0
    for each in reversed(course.recoveries[course.waited_until :]):
        if each.step != reached:
            break
        since += each.failure in _PASSING
    if since >= len(policy.waits):
        advice = "Look at the machine (dmesg, disk, network), then run the same request again: it goes on from its checkpoint."
        return Decision(course, advice=advice)
    seconds = policy.waits[since]
    return Decision(_after(course, failure, found, reached, f"another attempt after {seconds:g} s"), seconds)


def _after(course: Course, failure: Recoverable, found: str, step: int, action: str) -> Course:
    recovery = Recovery(failure=failure, step=step, action=action, reason=found)
    return course.model_copy(update={"recoveries": (*course.recoveries, recovery)})


def _count(course: Course, failure: Recoverable) -> int:
    return sum(each.failure == failure for each in course.recoveries)


def given_up(course: Course) -> Course:
    """The course that another run of the same training finds: it may be preempted, and may wait, as often as the first."""
    return course.model_copy(update={"fruitless": 0, "waited_until": len(course.recoveries)})


def announcement(recovery: Recovery) -> str:
    """One sentence: the class, what was found, what is done now."""
    place = f"from the checkpoint at step {recovery.step}" if recovery.step else "from the start"
    return f"{CLASSES[recovery.failure]}: {recovery.reason.rstrip('.')}; training goes on {place}: {recovery.action}"


def farewell(decision: Decision, failure: FailureClass, found: str) -> str:
    """Why training cannot go on: the class, what was found, what was done already and what can be done."""
    done = [f"{CLASSES[each.failure]} at step {each.step}, {each.action}" for each in decision.course.recoveries]
    already = f" Done already: {'; '.join(done)}." if done else ""
    return f"Training failed ({CLASSES[failure]}): {found.rstrip('.')}.{already} {decision.advice}"
