from typing import Any

import pytest

from tasks.contracts import ModelRef, Spec
from tasks.search.checks import check
from tasks.search.spec import SearchSpec
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.spec import TrainingSpec

KINDS = ("none", "random", "grid")


def problems(*space: dict[str, Any], kind: str = "random", method: Any = None, **changes: Any) -> list[str]:
    spec = SearchSpec.model_validate({"strategy": {"kind": kind}, "space": list(space)} | changes)
    return check(spec, method or Lora(), TrainingSpec())


def number(path: str, low: float, high: float) -> dict[str, Any]:
    return {"kind": "number", "path": path, "low": low, "high": high}


def integer(path: str, low: int, high: int) -> dict[str, Any]:
    return {"kind": "integer", "path": path, "low": low, "high": high}


def choice(path: str, *values: Any) -> dict[str, Any]:
    return {"kind": "choice", "path": path, "values": list(values)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_automatic_space_has_no_problem(kind: str) -> None:
    assert problems(kind=kind) == []
    assert problems(kind=kind, method=Full()) == []


def test_what_may_vary_may_vary() -> None:
    assert (
        problems(
            number("training.learning_rate", 1e-5, 1e-3),
            number("training.advanced.weight_decay", 0, 0.1),
            integer("method.alpha", 8, 64),
            integer("training.batch_size", 4, 32),
            choice("method.weight_decomposed", False, True),
            choice("method.targets", "all-linear", "q_proj,v_proj"),
        )
        == []
    )


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (number("training.learnin_rate", 0.1, 0.2), "Did you mean 'training.learning_rate'?"),
        (integer("rank", 1, 2), "Did you mean 'method.rank'?"),
        (choice("data.task", "chat", "qa"), "Unknown setting 'data.task'."),
        (choice("method.kind", "lora", "full"), "method.kind cannot vary: a search compares the settings of one method"),
        (integer("training.max_length", 64, 128), "training.max_length cannot vary: all trials share the tokenized data."),
        (number("training.epochs", 1, 2), "training.epochs cannot vary: every trial trains for search.steps steps."),
        (number("training.learning_rate", 0.1, 8), "training.learning_rate 8.0 cannot be: it should be less than or equal"),
        (number("method.alpha", -1, 8), "method.alpha -1.0 cannot be: it should be greater than 0."),
        (number("method.rank", 4, 8), "method.rank is a whole number: use kind integer."),
        (integer("method.weight_decomposed", 0, 1), "method.weight_decomposed is true or false: use kind choice."),
        (number("method.targets", 0, 1), "method.targets is text: use kind choice."),
        (choice("method.rank", 8, 2000), "method.rank 2000 cannot be"),
        (choice("method.rank", 8, "16"), "method.rank '16' cannot be"),
    ],
)
def test_a_dimension_that_no_request_can_have_is_named(dimension: dict[str, Any], expected: str) -> None:
    (problem,) = problems(dimension)
    assert problem.startswith("search.space.0: ")
    assert expected in problem


def test_all_problems_are_told_at_once_with_their_place() -> None:
    found = problems(number("method.rank", 4, 8), number("training.learning_rate", 2, 8), integer("method.alpha", 1, 2))
    assert [problem.split(":")[0] for problem in found] == ["search.space.0", "search.space.1", "search.space.1"]


def test_a_method_without_the_setting_does_not_know_it() -> None:
    (problem,) = problems(integer("method.rank", 1, 2), method=Full())
    assert "Unknown setting 'method.rank'." in problem


class Loose(Spec):
    """A method whose number has a whole default."""

    scale: float = 1


def test_a_whole_default_of_a_number_may_vary_as_a_number() -> None:
    assert problems(number("method.scale", 0.5, 2.5), method=Loose()) == []


def test_values_that_the_model_cannot_take_are_named(base: ModelRef) -> None:
    spec = SearchSpec.model_validate({"space": [choice("method.rank", 8, 32)]})
    assert check(spec, Lora(), TrainingSpec()) == []
    (problem,) = check(spec, Lora(), TrainingSpec(), base)
    assert "method.rank 32 is above the model's hidden size 16" in problem


@pytest.mark.parametrize(("trials", "fits"), [(9, False), (10, True)])
def test_a_grid_that_would_be_cut_is_refused(trials: int, fits: bool) -> None:
    found = problems(kind="grid", trials=trials)
    assert (found == []) is fits
    if not fits:
        assert found == [
            "search.strategy grid: the grid has 9 points, which with the request's own settings takes 10 trials, and "
            "search.trials is 9; raise it, lower search.strategy.points (3), or use strategy random."
        ]


def test_a_grid_that_holds_the_control_needs_no_trial_more() -> None:
    dora = choice("method.weight_decomposed", False, True)
    assert problems(dora, kind="grid", trials=2) == []
    assert len(problems(dora, kind="grid", trials=1)) == 1


def test_a_huge_grid_is_counted_without_being_built() -> None:
    dimensions = [integer(path, 1, 100) for path in ("method.rank", "method.alpha", "training.batch_size")]
    (problem,) = problems(*dimensions, kind="grid", strategy={"kind": "grid", "points": 100})
    assert "the grid has 1000000 points" in problem


def test_one_random_trial_is_refused() -> None:
    (problem,) = problems(trials=1)
    assert problem == (
        "search.strategy random: search.trials is 1, which is the request's own settings alone; raise it to 2 or more."
    )
