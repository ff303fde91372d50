"""When training ends early, and which options of training do not go together."""

import pytest

from tasks.training.checks import check
from tasks.training.spec import EarlyStopping, TrainingSpec
from tasks.training.stopping import exhausted


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "ends"),
    [
        ([3.0, 2.0, 2.1], 1, 0.0, True),
        ([3.0, 2.0, 2.1], 2, 0.0, False),
        ([3.0, 2.0, 2.1, 2.2], 2, 0.0, True),
        ([3.0, 2.0, 2.1, 1.9], 2, 0.0, False),  # the count begins anew
        ([3.0, 2.0, 2.0], 1, 0.0, True),  # equal is not lower
        ([3.0, 2.95, 2.9], 2, 0.2, True),  # lower, but not by enough; compared with the best that counted
        ([3.0, 2.95, 2.75], 2, 0.2, False),
        ([3.0, 4.0, 5.0], 0, 0.0, False),  # never
        ([], 1, 0.0, False),
    ],
)
def test_training_ends_after_so_many_validations_without_a_gain(
    losses: list[float], patience: int, min_delta: float, ends: bool
) -> None:
    assert exhausted(losses, EarlyStopping(patience=patience, min_delta=min_delta)) is ends


@pytest.mark.parametrize(
    ("asked", "validation", "problem"),
    [
        ({}, False, ""),
        ({"early_stopping": {"patience": 3, "min_delta": 0.1}}, True, ""),
        ({"early_stopping": {"patience": 3}}, False, "patience is set, but data.splitting.validation is 0"),
        ({"early_stopping": {"min_delta": 0.1}}, True, "min_delta is 0.1, but training never ends early"),
        ({"early_stopping": {"patience": 12}}, True, "patience is 12, but there are about 10 validations"),
        ({"early_stopping": {"patience": 12}, "advanced": {"validate_steps": 5}}, True, ""),
        ({"early_stopping": {"patience": 4}, "max_steps": 20, "advanced": {"validate_steps": 5}}, True, "about 4 validations"),
        ({"early_stopping": {"patience": 3}, "max_steps": 20, "advanced": {"validate_steps": 5}}, True, ""),
        ({"advanced": {"schedule": "wsd", "warmup_share": 0.4, "decay_share": 0.6}}, True, ""),
        ({"advanced": {"schedule": "wsd", "warmup_share": 0.5, "decay_share": 0.6}}, True, "together more than the whole run"),
        (
            {"advanced": {"decay_share": 0.3}},
            True,
            "decay_share is 0.3, but the schedule cosine has none; set training.advanced",
        ),
        ({"advanced": {"schedule": "constant"}}, True, ""),
        ({"advanced": {"schedule": "constant", "final_rate_share": 0.2}}, True, "with the schedule constant the rate stays"),
    ],
)
def test_options_that_do_not_go_together_are_found(asked: dict[str, object], validation: bool, problem: str) -> None:
    found = check(TrainingSpec.model_validate(asked), validation)
    assert len(found) == bool(problem)
    assert all(problem in text for text in found)


def test_every_problem_is_said_at_once() -> None:
    asked = {"early_stopping": {"patience": 3}, "advanced": {"decay_share": 0.3}}
    assert len(check(TrainingSpec.model_validate(asked), validation=False)) == 2
