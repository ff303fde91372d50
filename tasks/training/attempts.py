"""A training as the attempts that it takes."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.errors import AttemptError, StoppedError, TrainingError
from tasks.process import Event
from tasks.storage import write_text
from tasks.training import checkpoint, recovery
from tasks.training.heartbeats import Patience
from tasks.training.job import TrainingJob
from tasks.training.launch import USUAL_PATIENCE, launch
from tasks.training.recovery import USUAL, Course, Policy

log = logging.getLogger("tuneflow")
_FILE = "recovery.json"


def train(
    job: TrainingJob,
    *,
    policy: Policy = USUAL,
    on_event: Callable[[Event], None] = lambda _: None,
    on_line: Callable[[str], None] = lambda _: None,
    on_recovery: Callable[[Course], None] = lambda _: None,
    should_stop: Callable[[], str] = lambda: "",
    log_file: Path | None = None,
    tag: str = "",
    holds: Sequence[int] = (),
    patience: Patience = USUAL_PATIENCE,
) -> tuple[dict[str, Any], Course]:
    """Train `job`, getting over what can be got over; what `result.json` says, and the course that led to it.

    Args:
        job: what to train.
        policy: how often what is tried.
        on_event: called with every event of the ranks.
        on_line: called with every other line.
        on_recovery: called with the course of the next attempt before it starts.
        should_stop: asked now and then; a sentence stops the training after a checkpoint.
        log_file: file that gets every line.
        tag: names the processes in their environment, as TUNEFLOW_RUN.
        holds: file descriptors that stay open until the last process of an attempt has ended.
        patience: when a rank that does nothing any more is given up.

    Raises:
        TrainingError: the training cannot go on; the message says why, what was done already and what to do.
        StoppedError: it was stopped because `should_stop` said so.
    """
    course = recall(job)
    while True:
        begun = checkpoint.newest_step(job.checkpoints)
        try:
            result = launch(
                course.apply(job),
                on_event=on_event,
                on_line=on_line,
                should_stop=should_stop,
                log=log_file,
                tag=tag,
                holds=holds,
                patience=patience,
            )
            return result, course
        except AttemptError as error:
            if error.failure == "preempted":
                _rest(0.0, should_stop)  # the SIGTERM may belong to a cancellation that nobody has told us of yet
            decision = recovery.decide(
                course, error.failure, error.found, job=job, begun=begun,
                reached=checkpoint.newest_step(job.checkpoints), policy=policy,
            )  # fmt: skip
            if decision.advice:
                if decision.course.recoveries:
                    write_text(job.checkpoints / _FILE, recovery.given_up(decision.course).model_dump_json(indent=1))
                raise _end(decision, error) from error
        course = decision.course
        write_text(job.checkpoints / _FILE, course.model_dump_json(indent=1))
        log.warning("train: %s", recovery.announcement(course.recoveries[-1]))
        on_recovery(course)
        _rest(decision.seconds, should_stop)


def recall(job: TrainingJob) -> Course:
    """The course that an earlier run of this training left, or the first one."""
    path = job.checkpoints / _FILE
    try:
        course = Course.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return recovery.first_course(job)
    except (OSError, ValidationError) as error:
        log.warning("train: %s cannot be read, so training starts with the settings asked for: %s", path, error)
        return recovery.first_course(job)
    return course if course.key == job.key else recovery.first_course(job)


def _end(decision: recovery.Decision, error: AttemptError) -> TrainingError:
    ours = not error.tail and not decision.course.recoveries and error.failure == "other"
    text = error.found if ours else recovery.farewell(decision, error.failure, error.found)
    lines = ["Its last lines:", *(f"  | {line}" for line in error.tail)] if error.tail else []
    return TrainingError("\n".join([text, *lines]), error.failure)


def _rest(seconds: float, should_stop: Callable[[], str]) -> None:
    """Wait, asking once a second whether to stop, and at least once."""
    deadline = time.monotonic() + seconds
    while True:
        if reason := should_stop():
            raise StoppedError(f"tasks.training.worker was stopped: {reason}.")
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(1.0, left))
