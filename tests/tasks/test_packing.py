"""Packs hold every document once, none too long, as few and as full as best-fit decreasing makes them."""

from bisect import bisect_left, insort

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import DatasetError
from tasks.packing import Packs, pack, singles

CAPACITY = 64
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=120)


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """Tokens of each row, ascending, document by document: the textbook's way."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        place = bisect_left(rooms, length)
        room = rooms.pop(place) if place < len(rooms) else capacity
        insort(rooms, room - length)
    return sorted(capacity - room for room in rooms)


@settings(max_examples=200, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_every_document_stands_in_one_pack_and_the_packs_are_those_of_best_fit(
    lengths: list[int], seed: int, epoch: int
) -> None:
    packs = pack(lengths, CAPACITY, seed, epoch)
    assert sorted(packs.documents.tolist()) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in documents) for documents in packs]
    assert sums == packs.lengths.tolist()
    assert sorted(sums) == best_fit_decreasing(lengths, CAPACITY)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 3000), longest=st.integers(1, CAPACITY))
def test_many_documents_in_parts_take_few_more_packs_and_as_many_in_every_epoch(seed: int, count: int, longest: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, longest + 1, count)
    fewest = len(best_fit_decreasing(lengths.tolist(), CAPACITY))
    plans = [pack(lengths, CAPACITY, seed, epoch) for epoch in range(3)]
    for packs in plans:
        assert sorted(packs.documents.tolist()) == list(range(count))
        assert [sum(lengths[documents]) for documents in packs] == packs.lengths.tolist()
        assert 0 < packs.lengths.min() <= packs.lengths.max() <= CAPACITY
    assert len({len(packs) for packs in plans}) == 1
    assert fewest <= len(plans[0]) <= fewest + min(8, fewest // 64)


def test_documents_that_share_no_pack_are_left_alone() -> None:
    packs = pack([40] * 200 + [20], CAPACITY, seed=0, epoch=0)
    assert (len(packs), sorted(set(packs.lengths.tolist()))) == (201, [20, 40])


def test_long_documents_first_each_where_least_room_is_left() -> None:
    packs = pack([2, 9, 5, 3, 1], 10, seed=0, epoch=0)
    assert [documents.tolist() for documents in packs] == [[1, 4], [2, 3, 0]]
    assert packs.lengths.tolist() == [10, 10]
    assert len(pack([], 10, 0, 0)) == 0


def log_normal(count: int) -> np.ndarray:
    """Lengths of a mean near 122, most of them short and few long, as instruction data has them."""
    return np.clip(np.random.default_rng(0).lognormal(np.log(122) - 0.5, 1.0, count).round(), 1, 2048).astype(np.int64)


def test_packs_are_nearly_full() -> None:
    lengths = log_normal(50_000)
    packs = pack(lengths, 2048, seed=0, epoch=0)
    assert lengths.sum() / (len(packs) * 2048) > 0.995
    assert packs.lengths.max() <= 2048


def test_seed_and_epoch_decide_who_shares_a_pack_and_never_how_many_there_are() -> None:
    lengths = log_normal(5_000)

    def pairs(packs: Packs) -> set[tuple[int, int]]:
        return {(a, b) for documents in packs for a in documents.tolist() for b in documents.tolist() if a < b}

    first, again, second, other = (pack(lengths, 2048, *key) for key in ((0, 0), (0, 0), (0, 1), (1, 0)))
    assert np.array_equal(first.documents, again.documents)
    assert len(first) == len(second) == len(other)
    for changed in (second, other):
        assert len(pairs(first) & pairs(changed)) < 0.2 * len(pairs(first))


def test_rows_are_taken_in_the_order_that_is_asked_for() -> None:
    packs = pack([2, 9, 5, 3, 1], 10, seed=0, epoch=0)
    taken = packs.rows([1, 0, 1])
    assert [documents.tolist() for documents in taken] == [[2, 3, 0], [1, 4], [2, 3, 0]]
    assert taken.lengths.tolist() == [10, 10, 10]
    assert packs.rows([]).documents.tolist() == []
    alone = singles([4, 7])
    assert [documents.tolist() for documents in alone.rows([1])] == [[1]]
    assert alone.lengths.tolist() == [4, 7]


@pytest.mark.parametrize(("lengths", "found"), [([3, 11, 12], "2 of 3 .* document 1 with 11"), ([3, 0], "document 1 with 0")])
def test_a_document_that_fits_into_no_row_is_an_error(lengths: list[int], found: str) -> None:
    with pytest.raises(DatasetError, match=rf"{found} tokens; 1 to 10 were expected\. Raise training\.max_length"):
        pack(lengths, 10, 0, 0)


def test_a_great_capacity_is_packed_too() -> None:
    packs = pack([70_000, 30_000, 5, 999_999, 1], 1_000_000, 0, 0)
    assert [documents.tolist() for documents in packs] == [[3, 4], [0, 1, 2]]
