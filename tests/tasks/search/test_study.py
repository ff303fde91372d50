import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.contracts import Objective, Trial
from tasks.errors import StageError
from tasks.search.dimensions import Choice, Number
from tasks.search.space import Settings, Space
from tasks.search.spec import SearchSpec
from tasks.search.strategies.grid import Grid
from tasks.search.strategies.none import NoSearch
from tasks.search.strategies.random import Random
from tasks.search.study import Proposal, choose_best, conclude, front, pending, summarize, tabulate

RATE = Number(path="training.learning_rate", low=1e-5, high=1e-3, log=True)
RANKS = Choice(path="method.rank", values=[8, 16, 32])
Make = Callable[..., Trial]


class Rounds:
    """An adaptive strategy that proposes what it was told: how many trials, and the sum of their losses."""

    kind = "rounds"
    adaptive: ClassVar[bool] = True

    def check(self, space: Space, trials: int) -> str:
        return ""

    def propose(self, space: Space, told: Sequence[Trial], number: int, seed: int) -> Settings | None:
        if number == 0:
            return dict(space.control)
        loss = sum(trial.objectives[0].value for trial in told)
        return {"training.learning_rate": len(told) + loss + number / 1000}


def numbers(proposals: Sequence[Proposal]) -> list[int]:
    return [proposal.number for proposal in proposals]


def test_a_new_search_has_every_trial_before_it(make: Callable[..., Space]) -> None:
    found = pending(Random(), make(RATE), (), trials=5, parallel=2, seed=3)
    assert numbers(found) == [0, 1, 2, 3, 4]
    assert found[0].settings == {"training.learning_rate": 0.0}


def test_a_killed_search_goes_on_with_the_same_proposals(make: Callable[..., Space], trial: Make) -> None:
    space = make(RATE, RANKS)
    whole = pending(Random(), space, (), trials=8, parallel=1, seed=3)
    told = [trial(5, reason="out of memory"), trial(0, 1.0), trial(2, 0.9)]
    assert pending(Random(), space, told, trials=8, parallel=1, seed=3) == tuple(whole[at] for at in (1, 3, 4, 6, 7))


def test_more_trials_go_on_from_the_recorded_ones(make: Callable[..., Space], trial: Make) -> None:
    space = make(RATE)
    told = [trial(number, 1.0) for number in range(4)]
    assert pending(Random(), space, told, trials=4, parallel=1, seed=0) == ()
    more = pending(Random(), space, told, trials=6, parallel=1, seed=0)
    assert more == pending(Random(), space, (), trials=6, parallel=1, seed=0)[4:]


@pytest.mark.parametrize(("strategy", "count"), [(NoSearch(), 1), (Grid(), 10), (Random(), 16)])
def test_a_search_ends_where_its_strategy_has_no_more(make: Callable[..., Space], strategy: Any, count: int) -> None:
    assert len(pending(strategy, make(RATE, RANKS), (), trials=16, parallel=4, seed=0)) == count


def test_an_adaptive_search_runs_in_rounds(make: Callable[..., Space], trial: Make) -> None:
    space, told = make(RATE), []
    rounds = []
    while found := pending(Rounds(), space, tuple(told), trials=7, parallel=3, seed=0):
        rounds.append(numbers(found))
        told += [trial(each.number, float(each.number), rate=each.settings["training.learning_rate"]) for each in found]
    assert rounds == [[0, 1, 2], [3, 4, 5], [6]]
    # The second round knows of 3 trials with losses 0 + 1 + 2, the third of 6 with 0 + ... + 5.
    assert told[4].settings["rate"] == pytest.approx(3 + 3 + 0.004)
    assert told[6].settings["rate"] == pytest.approx(6 + 15 + 0.006)


@given(done=st.sets(st.integers(0, 2)))
def test_a_round_that_was_killed_ends_as_it_would_have(done: set[int]) -> None:
    space = Space(dimensions=(RATE,), control={"training.learning_rate": 0.0}, reason="")
    losses = {number: (Objective(name="loss", value=float(number)),) for number in range(6)}
    known = [3 + number for number in done] + [0, 1, 2]
    told = [Trial(number=at, settings={}, objectives=losses[at], status="done", seconds=1) for at in known]
    whole = {number: {"training.learning_rate": 3 + 3 + number / 1000} for number in (3, 4, 5)}
    rest = pending(Rounds(), space, told, trials=6, parallel=3, seed=0)
    assert {each.number: each.settings for each in rest} == {number: whole[number] for number in whole if number not in known}


def test_the_best_trial_has_the_lowest_loss(trial: Make) -> None:
    trials = [trial(0, 1.5, lr=0.0), trial(1, 1.25, lr=1e-4), trial(2, reason="out of memory"), trial(3, 1.3, lr=1e-3)]
    best, reason = choose_best(trials)
    assert best.number == 1
    assert reason == (
        "best: trial 1 of 4, loss 1.25, with lr 0.0001; 0.25 below the request's own settings (1.5), one training each"
    )


def test_the_lowest_number_wins_a_tie_in_any_order(trial: Make) -> None:
    trials = [trial(3, 1.0), trial(1, 1.0), trial(2, 1.0), trial(0, 1.1)]
    assert choose_best(trials)[0].number == 1
    assert choose_best([*trials, trial(4, 0.5)])[0].number == 4


def test_the_request_s_own_settings_may_be_best(trial: Make) -> None:
    best, reason = choose_best([trial(0, 1.0), trial(1, 1.0), trial(2, 2.0)])
    assert best.number == 0
    assert reason == "best: the request's own settings (trial 0, loss 1); none of 2 other trials was better"


def test_a_control_that_failed_is_no_comparison(trial: Make) -> None:
    best, reason = choose_best([trial(0, reason="out of memory"), trial(1, 1.0, lr=0.5)])
    assert best.number == 1
    assert reason == ("best: trial 1 of 2, loss 1, with lr 0.5; the request's own settings are no comparison: out of memory")


def test_higher_is_better_where_the_objective_says_so() -> None:
    def scored(number: int, value: float) -> Trial:
        objective = Objective(name="exact_match", value=value, lower_is_better=False)
        return Trial(number=number, settings={}, objectives=(objective,), status="done", seconds=1.0)

    best, reason = choose_best([scored(0, 0.5), scored(1, 0.75)])
    assert best.number == 1
    assert "0.25 above the request's own settings (0.5)" in reason
    assert front([scored(0, 0.5), scored(1, 0.75)]) == (1,)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_measurement(trial: Make, value: float) -> None:
    assert choose_best([trial(0, 2.0), trial(1, value)])[0].number == 0
    assert front([trial(0, 2.0), trial(1, value)]) == (0,)


def test_a_search_without_a_measurement_says_why(trial: Make) -> None:
    failed = [trial(number, reason=f"cause {number}") for number in range(5)]
    with pytest.raises(StageError) as raised:
        choose_best(failed)
    assert str(raised.value) == (
        "None of the 5 trials of the search gave a measurement: trial 0 (cause 0), trial 1 (cause 1), trial 2 (cause 2) "
        "and 2 more. Try the request's own settings alone with search.strategy.kind none, then a narrower search.space."
    )
    with pytest.raises(StageError, match="has no trial"):
        choose_best([])


def test_the_front_holds_what_nothing_beats(trial: Make) -> None:
    trials = [
        trial(0, 1.0, 10),  # front: the lowest loss
        trial(1, 2.0, 5),  # front: faster
        trial(2, 2.0, 6),  # slower than 1 with the same loss
        trial(3, 1.5, 7),  # front: between
        trial(4, 1.5, 7),  # the same point as 3
        trial(5, 3.0, 20),
        trial(6, reason="out of memory"),
    ]
    assert front(trials) == (0, 1, 3, 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_trial_is_on_the_front_or_beaten_by_one_that_is(points: list[tuple[int, int]]) -> None:
    trials = [
        Trial(
            number=at, settings={}, status="done", seconds=1.0,
            objectives=(Objective(name="loss", value=loss), Objective(name="seconds", value=seconds)),
        )
        for at, (loss, seconds) in enumerate(points)
    ]  # fmt: skip
    best = front(trials)
    for at, point in enumerate(points):
        beaten = any(points[other] != point and points[other] <= point and points[other][1] <= point[1] for other in best)
        assert (at in best) is not beaten
    assert choose_best(trials)[0].objectives[0].value == min(loss for loss, _ in points)


@pytest.fixture
def small(make: Callable[..., Space], trial: Make) -> Any:
    """A grid of three rates: one failed, the middle one is best."""
    space = make(RATE)
    told = [
        trial(3, reason="loss is | not\nfinite", training__learning_rate=1e-3),
        trial(1, 1.4, 12.0, training__learning_rate=1e-5),
        trial(2, 1.2, 11.0, training__learning_rate=1e-4),
        trial(0, 1.3, 10.0, training__learning_rate=0.0),
    ]
    return conclude(SearchSpec(strategy=Grid(), trials=5), space, told)


def test_a_result_orders_the_trials_and_says_what_happened(small: Any) -> None:
    assert [each.number for each in small.trials] == [0, 1, 2, 3]
    assert (small.strategy, small.best.number, small.front, small.control) == ("grid", 2, (0, 2), (0,))
    assert small.reasons == (
        "space: training.learning_rate 1e-05 to 0.001 by logarithm, as asked",
        "best: trial 2 of 4, loss 1.2, with training.learning_rate 0.0001; "
        "0.1 below the request's own settings (1.3), one training each",
        "1 of 4 trials gave no measurement: trial 3 (loss is | not\nfinite)",
        "4 of 5 trials: grid had no other settings left to propose",
    )


def test_a_result_in_a_sentence(small: Any, trial: Make) -> None:
    assert summarize(small) == (
        "grid search: 3 of 4 trials measured; trial 2 is best (loss 1.2): training.learning_rate 0.0001."
    )
    own = small.model_copy(update={"best": trial(0, 1.0), "trials": (trial(0, 1.0), trial(1, 2.0))})
    assert summarize(own).endswith("trial 0 is best (loss 1): the request's own settings.")


def test_a_result_as_a_table(small: Any) -> None:
    assert tabulate(small).splitlines() == [
        "| trial | `training.learning_rate` | loss | seconds | status | took |",
        "| --- | --- | --- | --- | --- | --- |",
        "| **2** | **0.0001** | **1.2** | **11** | **done** | **11 s** |",
        "| 0 (the request's own) | 0 | 1.3 | 10 | done | 10 s |",
        "| 1 | 1e-05 | 1.4 | 12 | done | 12 s |",
        "| 3 | 0.001 |  |  | failed: loss is \\| not finite | 10 s |",
    ]
