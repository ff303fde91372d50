"""Batches hold every index once, alike in length, in an order that seed and epoch alone decide."""

import numpy as np
import pytest

from tasks.batching import epoch_batches, fill, sorted_batches

LENGTHS = [3, 9, 1, 7, 5, 9, 2]


def test_sorted_batches_are_longest_first() -> None:
    assert [list(batch) for batch in sorted_batches(LENGTHS, 3)] == [[1, 5, 3], [4, 0, 6], [2]]
    assert sorted_batches([], 3) == []


@pytest.mark.parametrize("count", [1, 4, 31, 1000])
@pytest.mark.parametrize("size", [1, 4, 16])
def test_an_epoch_has_every_index_once_and_the_short_batch_last(count: int, size: int) -> None:
    batches = epoch_batches(list(range(1, count + 1)), size, seed=5, epoch=2)
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert [len(batch) for batch in batches] == [size] * (count // size) + ([count % size] if count % size else [])


def test_seed_and_epoch_decide_the_order() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(index) for batch in epoch_batches(list(range(1, 200)), 4, seed, epoch) for index in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 0)


def test_fill_is_tokens_over_positions() -> None:
    batches = [np.array([0, 1]), np.array([2])]
    assert fill([1, 4, 5], batches) == 10 / 13  # two rows of 4, one of 5
    assert fill([], []) == 1.0


def test_like_lengths_share_a_batch() -> None:
    lengths = list(np.random.default_rng(0).integers(1, 1000, 2000))
    random = np.split(np.random.default_rng(1).permutation(2000), 250)
    assert fill(lengths, random) < 0.6
    assert fill(lengths, epoch_batches(lengths, 8, 0, 0)) > 0.9
