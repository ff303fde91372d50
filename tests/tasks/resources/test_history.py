"""What earlier trainings say of the forecasts."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.resources.history import NOTHING, Past, learn


def trained(hours: float = 2.0, memory: float = 3.0, parameters: int = 1000, **changes: Any) -> Any:
    """A training that was forecast to take 1.5 hours, 1.5 times what arithmetic said, and 2 GiB."""
    plan = SimpleNamespace(
        accelerator="cpu", device_name="Some CPU", hours=1.5, time_factor=1.5, memory_gib=2.0, memory_factor=1.0
    )
    facts: dict[str, Any] = {
        "plan": plan, "forecast": SimpleNamespace(actual_hours=hours, actual_memory_gib=memory),
        "base": SimpleNamespace(parameters=parameters), "recoveries": (), "resumed_from": 0,
    }  # fmt: skip
    return SimpleNamespace(**(facts | changes))


def test_the_medians_count_and_a_correction_is_not_made_twice() -> None:
    models = [trained(2.0, 3.0, 1000), trained(4.0, 1.0, 9000), trained(3.0, 2.6, 500)]
    found = learn(models, "cpu", "Some CPU")
    assert found == Past(time=3.0, memory=1.3, trainings=3, smallest=500, largest=9000)


def test_few_trainings_and_those_elsewhere_change_nothing() -> None:
    elsewhere = [trained() for _ in range(5)]
    assert learn(elsewhere, "cpu", "Another CPU") == NOTHING
    assert learn(elsewhere, "cuda", "Some CPU") == NOTHING
    assert learn([trained(), trained()], "cpu", "Some CPU") == Past(trainings=2)


def test_a_training_with_failures_says_nothing_of_time() -> None:
    models = [*(trained() for _ in range(3)), trained(90.0, recoveries=("one",)), trained(90.0, resumed_from=7)]
    assert learn(models, "cpu", "Some CPU").trainings == 3


def test_what_cannot_be_is_cut() -> None:
    assert learn([trained(900.0, 0.001) for _ in range(3)], "cpu", "Some CPU") == Past(5.0, 0.2, 3, 1000, 1000)


@pytest.mark.parametrize(
    ("past", "said"),
    [
        (NOTHING, "forecasts are arithmetic: no earlier training(s) on this device to correct them by, and 3 are needed"),
        (
            Past(trainings=2),
            "forecasts are arithmetic: 2 earlier training(s) on this device to correct them by, and 3 are needed",
        ),
        (
            Past(1.25, 0.9, 4, 10, 1000),
            "forecasts are corrected by the medians of 4 earlier trainings on this device: time x 1.25, memory x 0.90",
        ),
        (
            Past(1.25, 0.9, 4, 10, 99),
            "forecasts are corrected by the medians of 4 earlier trainings on this device: time x 1.25, memory x 0.90; those "
            "models had 10 to 99 parameters, and this one's 100 lie outside the measured range",
        ),
    ],
)
def test_the_sentence(past: Past, said: str) -> None:
    assert past.sentences(100) == [said]
