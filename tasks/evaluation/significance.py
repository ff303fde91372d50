"""Intervals and tests for means of items that come in groups, such as the conversations of one customer.

Items of a group resemble each other, so that whole groups are resampled or flipped, never single items (Cameron,
Gelbach & Miller 2008, "Bootstrap-based improvements for inference with clustered errors", section III). Every function
is a pure function of its arguments, the seed included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB
# More groups than this are pooled at random. Sums of independent groups are independent, so the estimate stays
# unbiased; of its precision 5,000 degrees of freedom lose nothing that can be seen.
_MOST_GROUPS = 5_000
POWER = 0.8


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval."""

    value: float
    low: float
    high: float
    n: int
    groups: int


def mean_interval(
    values: Sequence[float],
    groups: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    proportion: bool = False,
) -> Interval:
    """The mean of `values` with its interval from a bootstrap of whole groups.

    Percentile interval (Efron & Tibshirani 1993, chapter 13) of the ratio of resampled group sums to resampled group
    sizes, at levels expanded to Phi(-sqrt(G / (G - 1)) t_{G - 1}) for G groups, since plain percentiles are too narrow
    for few groups (Hesterberg 2015, "What teachers should know about the bootstrap", on the expanded percentile
    interval). A proportion that is 0 or 1 throughout has no spread to resample and gets a Wilson interval over groups.
    Where all items share one group they are resampled singly, which claims too much: see `least_groups`.
    """
    value = np.asarray(values, dtype=np.float64)
    sums, counts = _totals(value, groups, seed)
    if proportion and (value.min() == value.max()) and value[0] in (0.0, 1.0):
        low, high = wilson(len(sums) * float(value[0]), len(sums), confidence)
    else:
        low, high = _percentiles(value, sums, counts, confidence=confidence, resamples=resamples, seed=seed)
    return Interval(float(value.mean()), low, high, len(value), count_groups(groups))


def difference_interval(
    differences: Sequence[float],
    groups: Sequence[str],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    proportion: bool = False,
) -> Interval:
    """The mean paired difference with its interval: as `mean_interval`, on the difference of each item.

    Differences of 0/1 values that are all equal (nothing changed, or everything did) have no spread either. Of G groups
    without a change, the share that would change is below Wilson's limit for 0 of G, in either direction.
    """
    difference = np.asarray(differences, dtype=np.float64)
    sums, counts = _totals(difference, groups, seed)
    if proportion and difference.min() == difference.max():
        _, unseen = wilson(0, len(sums), confidence)
        value = float(difference[0])
        low, high = max(-1.0, value - unseen), min(1.0, value + unseen)
    else:
        low, high = _percentiles(difference, sums, counts, confidence=confidence, resamples=resamples, seed=seed)
    return Interval(float(difference.mean()), low, high, len(difference), count_groups(groups))


def sign_flip_p(differences: Sequence[float], groups: Sequence[str], *, resamples: int, seed: int) -> float:
    """Two-sided p-value of "the differences are symmetric about 0", by flipping the signs of whole groups.

    All 2^G patterns where there are at most `resamples` (exact); else `resamples` random ones with p = (b + 1) / (m +
    1), which is never 0 (Phipson & Smyth 2010, "Permutation p-values should never be zero", equation 2).
    """
    sums, _ = _totals(np.asarray(differences, dtype=np.float64), groups, seed)
    sums = sums[sums != 0]  # a group without a difference is the same flipped or not
    if not len(sums):
        return 1.0
    # The observed pattern must count as itself, whatever the order in which floats are added.
    observed = abs(float(sums.sum())) * (1 - 1e-9) - 1e-12 * float(np.abs(sums).sum())
    if 2 ** len(sums) <= resamples:
        patterns = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))
        return float(np.mean(np.abs((1 - 2.0 * (patterns & 1)) @ sums) >= observed))
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _chunks(resamples, len(sums)):
        flipped = generator.integers(0, 2, (rows, len(sums)), dtype=np.int8).astype(np.float64)
        # sum of s (1 - 2 f) = sum of s - 2 f.s
        extreme += int(np.sum(np.abs(sums.sum() - 2 * (flipped @ sums)) >= observed))
    return (extreme + 1) / (resamples + 1)


def wilson(successes: float, n: int, confidence: float) -> tuple[float, float]:
    """Interval of a proportion, of some width even for 0 or n successes.

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n) (Wilson 1927; Brown, Cai & DasGupta 2001,
    section 3.1.1).
    """
    z = _normal_quantile(0.5 + confidence / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def least_groups(confidence: float) -> int:
    """Fewest groups that can settle anything: 1 + log2(1 / alpha), rounded up.

    Were all G groups to agree, a sign test's two-sided p-value would be 2^(1 - G), which must reach alpha.
    """
    return 1 + math.ceil(-math.log2(1 - confidence) - 1e-9)


def items_needed(
    differences: Sequence[float], groups: Sequence[str], gap: float, *, confidence: float, power: float = POWER
) -> int:
    """Items for which a true mean this far (`gap`) from a bound would be told from it with `power`.

    n' = n ((z_{1 - alpha/2} + z_power) se / gap)^2 with the cluster-robust standard error of the differences seen (the
    usual normal approximation; Cohen 1988, section 2.4), and at least enough for `least_groups`.
    """
    se = standard_error(differences, groups)
    z = _normal_quantile(0.5 + confidence / 2) + _normal_quantile(power)
    n = len(differences)
    for_groups = math.ceil(n * least_groups(confidence) / count_groups(groups))
    return max(n + 1, for_groups, math.ceil(n * (z * se / gap) ** 2))


def items_to_bound_changes(n: int, groups: int, bound: float, confidence: float) -> int:
    """Items that bound the share that changes by `bound` where none of them does.

    Wilson's limit for 0 of G is z^2 / (G + z^2), so G = z^2 (1 - b) / b groups, with as many items a group as now.
    """
    z = _normal_quantile(0.5 + confidence / 2)
    return max(n + 1, math.ceil(n / groups * z * z * (1 - bound) / bound))


def standard_error(values: Sequence[float], groups: Sequence[str]) -> float:
    """Cluster-robust standard error of a mean: sqrt(G / (G - 1) sum_g (s_g - mean n_g)^2) / n; 0 for a single group."""
    value = np.asarray(values, dtype=np.float64)
    sums, counts = _totals(value, groups, 0)
    if len(sums) < 2:
        return 0.0
    residuals = sums - value.mean() * counts
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(residuals**2)) / len(value))


def count_groups(groups: Sequence[str]) -> int:
    """How many different groups there are."""
    return len(set(groups))


def _percentiles(
    values: Floats, sums: Floats, counts: Floats, *, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    if len(sums) == 1:
        sums, counts = values, np.ones(len(values))
    if len(sums) == 1:
        return float(values[0]), float(values[0])  # a single item says nothing of its spread
    level = _expanded_level(confidence, len(sums))
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [level, 1 - level])
    return float(low), float(high)


def _expanded_level(confidence: float, groups: int) -> float:
    from scipy.special import ndtr, stdtrit

    t = float(stdtrit(groups - 1, (1 - confidence) / 2))
    return float(ndtr(math.sqrt(groups / (groups - 1)) * t))


def _resampled_means(sums: Floats, counts: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Means of `resamples` draws of as many groups as there are, with replacement."""
    even = bool(np.all(counts == counts[0]))
    means = []
    for rows in _chunks(resamples, len(sums)):
        drawn = generator.integers(0, len(sums), (rows, len(sums)), dtype=np.int32)
        total = sums[drawn].sum(axis=1)
        means.append(total / (counts[0] * len(sums)) if even else total / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def _totals(values: Floats, groups: Sequence[str], seed: int) -> tuple[Floats, Floats]:
    """Sum and number of the values of each group, groups pooled at random beyond `_MOST_GROUPS`."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    found = int(index.max()) + 1
    if found > _MOST_GROUPS:
        index = (np.random.default_rng([seed, found]).permutation(found) % _MOST_GROUPS)[index]
    sums = np.bincount(index, weights=values).astype(np.float64)
    counts = np.bincount(index).astype(np.float64)
    return sums, counts


def _chunks(rows: int, width: int) -> list[int]:
    step = max(1, _CELLS // width)
    return [min(step, rows - start) for start in range(0, rows, step)]


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))
