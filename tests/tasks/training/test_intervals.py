import math
from typing import Any

import pytest

from tasks.training.intervals import Pace, best_seconds, choose_interval, seconds_between_failures


def test_the_time_between_checkpoints_is_youngs() -> None:
    assert best_seconds(2.0, 3600.0) == pytest.approx(120.0)  # sqrt(2 x 2 x 3600)


def test_many_devices_fail_more_often() -> None:
    assert seconds_between_failures(1) == seconds_between_failures(8) == 24 * 3600
    assert seconds_between_failures(10_000) == 5 * 3600


def test_the_interval_follows_from_what_a_checkpoint_and_a_step_take() -> None:
    steps, why = choose_interval(0.5, 2.0, 1)
    assert steps == round(math.sqrt(2 * 0.5 * 86400) / 2)
    assert why == (
        "a checkpoint every 147 steps of 2 s: one takes 0.5 s, and a failure every 24 h is assumed of 1 device(s), so 294 s "
        "apart is best (Young 1974)"
    )


def test_a_costly_checkpoint_still_comes_every_half_hour() -> None:
    steps, why = choose_interval(60.0, 10.0, 1)
    assert steps == 180
    assert why.endswith("so 3220 s apart is best (Young 1974), cut to 30 minutes of work")


def test_a_pace_that_was_asked_for_is_kept() -> None:
    pace = Pace(4, 1)
    assert [step for step in range(1, 13) if pace.due(step)] == [4, 8, 12]
    assert pace.written(4, 100.0, 1.0) == ""
    assert [step for step in range(5, 13) if pace.due(step)] == [8, 12]


def test_an_automatic_pace_measures_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = iter([10.0, 12.0, 15.0, 20.0])
    monkeypatch.setattr("tasks.training.intervals.time.monotonic", lambda: next(clock))
    pace = Pace(0, 1)
    assert [pace.due(step) for step in (1, 2, 3)] == [False, False, True]
    assert pace.step_seconds() == 2.5  # the median of 2 and 3
    assert "every 118 steps of 2.5 s" in pace.written(3, 0.5, 2.5)
    monkeypatch.undo()
    assert next(step for step in range(4, 130) if pace.due(step)) == 3 + 118


def test_without_a_measured_step_the_next_checkpoint_comes_soon() -> None:
    pace = Pace(0, 1)
    assert pace.written(1, 0.5, pace.step_seconds()) == ""
    assert [pace.due(step) for step in (2, 3, 4)] == [False, False, True]
