"""How far a training that was done again is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import TrainedModel
from tasks.training.reproduction import compared, curve_of, furthest
from tests.tasks.test_contracts import MODEL

CURVE = [(1, "loss", 2.0), (10, "loss", 1.5), (10, "validation_loss", 1.6)]
HERE = {"device": "one", "torch": "2.13.0"}


def moved(by: float) -> list[tuple[int, str, float]]:
    return [(step, kind, loss + by) for step, kind, loss in CURVE]


@pytest.fixture
def first() -> TrainedModel:
    return MODEL.model_copy(update={"order_sha256": "1" * 64})


def test_the_same_bits(first: TrainedModel) -> None:
    found = compared("a", first, first, (CURVE, CURVE), (HERE, HERE))
    assert (found.level, found.largest_difference, found.changed) == ("bits", 0.0, ())
    assert all(check.same for check in found.checks)
    assert [check.name for check in found.checks] == ["data", "data order", "loss curve", "weights"]


@pytest.mark.parametrize(
    ("change", "by", "level"),
    [
        ({"sha256": "2" * 64}, 1e-4, "curve"),
        ({"sha256": "2" * 64}, 0.5, "none"),
        ({"sha256": "2" * 64, "order_sha256": "3" * 64}, 0.0, "none"),
        ({"sha256": "2" * 64, "data_sha256": "3" * 64}, 0.0, "none"),
        ({"order_sha256": ""}, 0.0, "none"),
    ],
)
def test_levels(first: TrainedModel, change: dict[str, Any], by: float, level: str) -> None:
    again = first.model_copy(update=change)
    assert compared("a", first, again, (CURVE, moved(by)), (HERE, HERE)).level == level


def test_a_first_training_without_a_noted_order_is_not_called_the_same(first: TrainedModel) -> None:
    before = first.model_copy(update={"order_sha256": ""})
    assert compared("a", before, before, (CURVE, CURVE), (HERE, HERE)).level == "none"


def test_what_differs_is_named(first: TrainedModel) -> None:
    again = first.model_copy(update={"sha256": "2" * 64})
    found = compared("a", first, again, (CURVE, moved(1e-4)), (HERE, {"device": "two", "torch": "2.13.0", "peft": "1"}))
    assert found.changed == ("device two instead of one", "peft 1 instead of none")
    assert found.reason.endswith("What differs: device two instead of one; peft 1 instead of none.")


def test_losses_at_other_steps_cannot_be_compared(first: TrainedModel) -> None:
    assert furthest(CURVE, CURVE[:2]) is None
    again = first.model_copy(update={"sha256": "2" * 64})
    found = compared("a", first, again, (CURVE, CURVE[:2]), (HERE, HERE))
    assert (found.level, found.reason) == ("none", "The losses were taken at other steps.")


def test_a_large_loss_counts_relatively() -> None:
    assert furthest([(1, "loss", 8.0)], [(1, "loss", 8.08)]) == pytest.approx(0.01)


def test_the_clock_is_not_part_of_the_curve(tmp_path: Path) -> None:
    points = [{"step": 1, "loss": 2.0, "seconds": 3.0}, {"step": 2, "validation_loss": 1.0}]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    assert curve_of(tmp_path / "history.jsonl") == [(1, "loss", 2.0), (2, "validation_loss", 1.0)]
