import time
from itertools import product
from typing import Any

import numpy as np
import pytest

from tasks.evaluation import significance
from tasks.evaluation.significance import (
    difference_interval,
    items_needed,
    items_to_bound_changes,
    least_groups,
    mean_interval,
    sign_flip_p,
    standard_error,
    wilson,
)

OPTIONS: dict[str, Any] = {"confidence": 0.95, "resamples": 1000, "seed": 0}
SIMULATIONS = 400


def singles(n: int) -> list[str]:
    return [str(at) for at in range(n)]


def test_wilson_of_none_has_the_closed_form() -> None:
    # For 0 of n the limit is z^2 / (n + z^2); z = 1.959964.
    z2 = 1.959964**2
    low, high = wilson(0, 10, 0.95)
    assert low == 0
    assert high == pytest.approx(z2 / (10 + z2), rel=1e-6)
    assert wilson(10, 10, 0.95) == pytest.approx((10 / (10 + z2), 1.0), rel=1e-6)


def test_wilson_in_the_middle() -> None:
    # By hand for 5 of 10: middle 0.5, half z / (10 + z^2) sqrt(2.5 + z^2 / 4).
    z = 1.959964
    half = z / (10 + z * z) * (2.5 + z * z / 4) ** 0.5
    assert wilson(5, 10, 0.95) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-6)


@pytest.mark.parametrize(("confidence", "groups"), [(0.8, 4), (0.9, 5), (0.95, 6), (0.99, 8), (0.999, 11)])
def test_least_groups_are_the_fewest_whose_sign_test_reaches_the_level(confidence: float, groups: int) -> None:
    assert least_groups(confidence) == groups
    assert 2.0 ** (1 - groups) <= 1 - confidence < 2.0 ** (2 - groups)


def test_sign_flips_are_enumerated_for_few_groups() -> None:
    # By hand: sums 1, 2, 3; of the 8 patterns only +++ and --- reach |6|.
    assert sign_flip_p([1, 2, 3], ["a", "b", "c"], resamples=1000, seed=0) == 2 / 8
    # 1, 1, -3: |sum| is 1. Sums of the 8 patterns: +-5, +-3 (twice), +-1; all reach 1.
    assert sign_flip_p([1, 1, -3], ["a", "b", "c"], resamples=1000, seed=0) == 1.0


def test_sign_flips_equal_an_enumeration_written_otherwise() -> None:
    differences = [0.3, -0.1, 0.7, 0.2, 0.4, -0.6]
    groups = ["a", "a", "b", "c", "d", "d"]
    sums = [0.2, 0.7, 0.2, -0.2]
    reached = [abs(sum(s * f for s, f in zip(sums, flips, strict=True))) >= 0.9 - 1e-9 for flips in product((1, -1), repeat=4)]
    assert sign_flip_p(differences, groups, resamples=16, seed=0) == sum(reached) / 16


def test_sign_flips_by_chance_agree_with_the_enumeration_and_are_never_zero() -> None:
    generator = np.random.default_rng(0)
    differences = generator.normal(0.5, 1, 12)
    exact = sign_flip_p(differences.tolist(), singles(12), resamples=4096, seed=0)
    sampled = sign_flip_p(differences.tolist(), singles(12), resamples=4095, seed=0)
    assert sampled == pytest.approx(exact, abs=0.03)
    assert sampled != exact
    assert sign_flip_p([1.0] * 50, singles(50), resamples=1000, seed=0) == 1 / 1001


def test_identical_models_differ_by_nothing() -> None:
    interval = difference_interval([0.0] * 20, singles(20), **OPTIONS)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert sign_flip_p([0.0] * 20, singles(20), resamples=1000, seed=0) == 1.0


def test_answers_that_all_agree_do_not_prove_that_none_would_differ() -> None:
    interval = difference_interval([0.0] * 20, singles(20), proportion=True, **OPTIONS)
    _, unseen = wilson(0, 20, 0.95)
    assert (interval.low, interval.high) == (-unseen, unseen)
    flipped = difference_interval([1.0] * 20, singles(20), proportion=True, **OPTIONS)
    assert (flipped.low, flipped.high) == (1 - unseen, 1.0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_without_spread_gets_a_wilson_interval(value: float) -> None:
    interval = mean_interval([value] * 10, singles(10), proportion=True, **OPTIONS)
    assert (interval.low, interval.high) == wilson(10 * value, 10, 0.95)
    # Ten items of five groups are five observations.
    paired = mean_interval([value] * 10, [str(at // 2) for at in range(10)], proportion=True, **OPTIONS)
    assert (paired.low, paired.high) == wilson(5 * value, 5, 0.95)


def test_clusters_widen_the_interval_and_the_error() -> None:
    generator = np.random.default_rng(0)
    values = np.repeat(generator.normal(0, 1, 20), 10) + generator.normal(0, 0.1, 200)
    clusters = [str(at // 10) for at in range(200)]
    alone, grouped = (mean_interval(values.tolist(), g, **OPTIONS) for g in (singles(200), clusters))
    assert grouped.high - grouped.low > 2.5 * (alone.high - alone.low)
    assert grouped.groups == 20
    # sqrt(10) for wholly alike items.
    assert standard_error(values.tolist(), clusters) / standard_error(values.tolist(), singles(200)) == pytest.approx(
        10**0.5, rel=0.1
    )


def test_standard_error_of_singles_is_the_textbook_one() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    assert standard_error(values, singles(4)) == pytest.approx(np.std(values, ddof=1) / 2)


def test_an_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3, 1, 2000)
    interval = mean_interval(values.tolist(), singles(2000), confidence=0.95, resamples=10_000, seed=0)
    half = 1.96 * values.std() / 2000**0.5
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.value == pytest.approx(half, rel=0.05)
    assert interval.value - interval.low == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize("shape", ["normal", "skewed", "clustered"])
def test_false_positives_and_coverage_are_as_claimed(shape: str) -> None:
    """400 simulations with a true mean of 0: at 95% about 5% of intervals miss it; 7% is two standard errors more."""
    generator = np.random.default_rng(7)
    missed = rejected = 0
    for seed in range(SIMULATIONS):
        if shape == "clustered":
            values = np.repeat(generator.normal(0, 1, 15), 4) + generator.normal(0, 1, 60)
            groups = [str(at // 4) for at in range(60)]
        else:
            values = generator.normal(0, 1, 25) if shape == "normal" else generator.exponential(1, 60) - 1
            groups = singles(len(values))
        options = {"confidence": 0.95, "resamples": 1000, "seed": seed}
        interval = difference_interval(values.tolist(), groups, **options)  # type: ignore[arg-type]
        missed += not interval.low <= 0 <= interval.high
        rejected += sign_flip_p(values.tolist(), groups, resamples=1000, seed=seed) <= 0.05
    assert 0.02 <= missed / SIMULATIONS <= 0.07
    assert rejected / SIMULATIONS <= 0.07


def test_items_needed_gives_the_power_it_promises() -> None:
    generator = np.random.default_rng(0)
    pilot = generator.normal(0.3, 1, 40)
    needed = items_needed(pilot.tolist(), singles(40), 0.3, confidence=0.95)
    # By hand: ((1.95996 + 0.84162) sd / 0.3)^2.
    assert needed == int(np.ceil((2.80158 * pilot.std(ddof=1) / 0.3) ** 2))
    found = 0
    for seed in range(200):
        sample = generator.normal(0.3, pilot.std(ddof=1), needed)
        found += difference_interval(sample.tolist(), singles(needed), confidence=0.95, resamples=1000, seed=seed).low > 0
    assert 0.72 <= found / 200 <= 0.88


def test_items_needed_reach_the_fewest_groups() -> None:
    assert items_needed([1.0, 1.1, 1.0, 1.1], ["a", "a", "b", "b"], 1.0, confidence=0.95) == 12


def test_items_to_bound_changes_meets_the_wilson_limit() -> None:
    needed = items_to_bound_changes(20, 20, 0.02, 0.95)
    assert wilson(0, needed, 0.95)[1] <= 0.02 < wilson(0, needed - 1, 0.95)[1]


def test_the_seed_and_nothing_else_decides() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50).tolist()
    first, again = (mean_interval(values, singles(50), **OPTIONS) for _ in range(2))
    other = mean_interval(values, singles(50), **(OPTIONS | {"seed": 1}))
    assert first == again
    assert first != other


def test_a_single_group_and_a_single_item_have_numbers() -> None:
    one = mean_interval([1.0, 2.0, 3.0], ["a"] * 3, **OPTIONS)
    assert one.groups == 1
    assert one.low <= 2.0 <= one.high
    assert mean_interval([1.5], ["a"], **OPTIONS) == significance.Interval(1.5, 1.5, 1.5, 1, 1)


def test_pooling_many_groups_leaves_the_interval() -> None:
    values = np.random.default_rng(0).normal(0, 1, 12_000)
    interval = mean_interval(values.tolist(), singles(12_000), **OPTIONS)
    assert interval.groups == 12_000
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 12_000**0.5, rel=0.1)


def test_ten_thousand_resamples_of_a_thousand_items_take_no_time() -> None:
    values = np.random.default_rng(0).normal(0.01, 1, 1000).tolist()
    started = time.process_time()
    difference_interval(values, singles(1000), confidence=0.95, resamples=10_000, seed=0)
    sign_flip_p(values, singles(1000), resamples=10_000, seed=0)
    assert time.process_time() - started < 3
