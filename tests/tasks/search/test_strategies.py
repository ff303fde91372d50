"""Every strategy of the union keeps the same promises; then what sets each apart."""

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts import Objective, Trial
from tasks.search.dimensions import Choice, Dimension, Integer, Number
from tasks.search.space import Settings, Space, make_space
from tasks.search.strategies import Proposer, Strategy
from tasks.search.strategies.grid import Grid
from tasks.search.strategies.none import NoSearch
from tasks.search.strategies.random import Random
from tasks.training.methods.lora import Lora
from tasks.training.spec import TrainingSpec

FAMILY: list[type[Any]] = list(get_args(get_args(Strategy)[0]))
NUMBERS = 20
PATHS = ("method.rank", "method.alpha", "training.batch_size", "training.advanced.beta1", "training.learning_rate")
RATE = Number(path="training.learning_rate", low=1e-5, high=1e-3, log=True)
RANKS = Choice(path="method.rank", values=[8, 16, 32])


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces of one to four dimensions, some of few settings."""
    dimensions: list[Dimension] = []
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=4, unique=True)):
        low, width, log = draw(st.tuples(st.integers(1, 50), st.integers(1, 40), st.booleans()))
        values = draw(st.lists(st.integers(0, 9), min_size=2, max_size=4, unique=True))
        dimensions.append(
            draw(
                st.sampled_from(
                    [
                        Number(path=path, low=low / 100, high=(low + width) / 100, log=log),
                        Integer(path=path, low=low, high=low + width, log=log),
                        Choice(path=path, values=list(values)),
                    ]
                )
            )
        )
    return make_space(dimensions, Lora(), TrainingSpec())


def recorded(strategy: Proposer, space: Space, seed: int, count: int = NUMBERS) -> list[Trial]:
    """Trials one after another, each proposal told those before; every third fails."""
    told: list[Trial] = []
    for number in range(count):
        proposed = strategy.propose(space, tuple(told), number, seed)
        if proposed is None:
            break
        failed = number % 3 == 2
        loss = (Objective(name="loss", value=math.sin(number)),)
        told.append(
            Trial(
                number=number,
                settings=proposed,
                objectives=() if failed else loss,
                seconds=1.0,
                status="failed" if failed else "done",
                reason="out of memory" if failed else "",
            )
        )
    return told


def lies_within(space: Space, found: Settings) -> bool:
    for dimension in space.dimensions:
        value = found[dimension.path]
        if isinstance(dimension, Choice):
            assert value in dimension.values
        else:
            assert isinstance(value, int if isinstance(dimension, Integer) else float)
            assert dimension.low <= value <= dimension.high
    return list(found) == [dimension.path for dimension in space.dimensions]


@pytest.mark.parametrize("kind", FAMILY)
def test_a_strategy_is_a_titled_spec_with_a_literal_kind(kind: type[Any]) -> None:
    schema = kind.model_json_schema()
    assert schema["title"] == kind.model_config["title"]
    assert schema["properties"]["kind"]["const"] == kind().kind
    assert all("title" in field and field.get("description") for name, field in schema["properties"].items() if name != "kind")
    assert isinstance(kind.adaptive, bool)
    assert kind().check(make_space([RATE, RANKS], Lora(), TrainingSpec()), 1000) == ""


def test_no_two_strategies_share_a_kind_and_none_comes_first() -> None:
    kinds = [kind().kind for kind in FAMILY]
    assert len(set(kinds)) == len(kinds)
    assert kinds[0] == "none"


@pytest.mark.parametrize("kind", FAMILY)
@given(space=spaces(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_proposals_lie_within_the_space_differ_and_begin_with_the_control(kind: type[Any], space: Space, seed: int) -> None:
    trials = recorded(kind(), space, seed)
    assert trials[0].settings == space.control
    assert all(lies_within(space, trial.settings) for trial in trials[1:])
    assert len({tuple(trial.settings.values()) for trial in trials}) == len(trials)
    assert len(trials) <= space.size() + 1


@pytest.mark.parametrize("kind", FAMILY)
@given(space=spaces(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_same_history_gives_the_same_proposals(kind: type[Any], space: Space, seed: int) -> None:
    strategy = kind()
    trials = recorded(strategy, space, seed)
    assert recorded(kind(), space, seed) == trials
    for trial in trials:  # a search that was killed before this trial
        assert strategy.propose(space, trials[: trial.number], trial.number, seed) == trial.settings
        if not strategy.adaptive:
            assert strategy.propose(space, (), trial.number, seed) == trial.settings


@pytest.mark.parametrize("kind", FAMILY)
def test_a_space_that_is_used_up_ends_the_search(kind: type[Any], make: Callable[..., Space]) -> None:
    space = make(RANKS, Choice(path="method.weight_decomposed", values=[False, True]))
    trials = recorded(kind(), space, seed=0, count=10)
    assert len(trials) == (1 if kind is NoSearch else 6)  # the control is one of the six
    assert kind().propose(space, trials, len(trials), 0) is None


def test_random_covers_each_half_of_each_dimension_evenly(make: Callable[..., Space]) -> None:
    # A Sobol sequence's first 2^k points have 2^(k-1) in each half of each dimension; scrambling keeps that.
    space = make(Number(path="training.learning_rate", low=0, high=1), Number(path="method.alpha", low=0, high=1))
    for seed in range(5):
        found = [Random().propose(space, (), number, seed) for number in range(1, 33)]
        for path in ("training.learning_rate", "method.alpha"):
            assert sum(float(each[path] or 0) < 0.5 for each in found if each) == 16


def test_random_gives_each_seed_its_own_points(make: Callable[..., Space]) -> None:
    space = make(RATE)
    assert len({Random().propose(space, (), 1, seed)["training.learning_rate"] for seed in range(20)}) == 20  # type: ignore[index]


def test_random_goes_on_beyond_its_first_block(make: Callable[..., Space]) -> None:
    assert len(recorded(Random(), make(RATE), seed=1, count=200)) == 200


def test_random_finds_every_setting_of_a_small_space(make: Callable[..., Space]) -> None:
    # 300 settings and the control, whose alpha is no whole number between 1 and 3.
    space = make(Integer(path="method.rank", low=1, high=100, log=True), Integer(path="method.alpha", low=1, high=3))
    assert Random().propose(space, (), 300, seed=0) is not None
    assert Random().propose(space, (), 301, seed=0) is None


def test_random_gives_up_where_numbers_are_too_close_to_differ(make: Callable[..., Space]) -> None:
    space = make(Number(path="training.learning_rate", low=0.1, high=0.1 + 1e-16))
    assert len(recorded(Random(), space, seed=0)) <= 3


def test_a_grid_is_every_combination_the_first_dimension_fastest(make: Callable[..., Space]) -> None:
    space = make(RATE, Choice(path="method.weight_decomposed", values=[True, False]))
    assert [tuple(trial.settings.values()) for trial in recorded(Grid(), space, seed=0)] == [
        (0.0, False),  # the control: 0 is the automatic rate
        (1e-5, True), (1e-4, True), (1e-3, True), (1e-5, False), (1e-4, False), (1e-3, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("points", "dimensions", "trials"),
    [
        (3, [RATE], 1 + 3),
        (5, [RATE], 1 + 5),
        (2, [RATE, RANKS], 1 + 6),
        (3, [RANKS], 3),  # the request's rank 16 is a point
        (4, [Integer(path="method.rank", low=1, high=3)], 1 + 3),
        (3, [RATE, Integer(path="method.rank", low=2, high=8)], 1 + 9),
    ],
)
def test_a_grid_has_as_many_trials_as_points(
    make: Callable[..., Space], points: int, dimensions: list[Any], trials: int
) -> None:
    grid, space = Grid(points=points), make(*dimensions)
    assert len(recorded(grid, space, seed=0)) == trials
    assert grid.check(space, trials) == ""
    assert f"takes {trials} trials" in grid.check(space, trials - 1)


def test_a_grid_knows_no_chance(make: Callable[..., Space]) -> None:
    assert recorded(Grid(), make(RATE, RANKS), seed=0) == recorded(Grid(), make(RATE, RANKS), seed=7)
