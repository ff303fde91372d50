"""Which documents share a row: a pure function of lengths, capacity, seed and epoch, known to every process.

Best-fit decreasing (Johnson 1973): the longest document first, each into the row with the least room that still holds it. The
lengths alone decide how many rows there are, so every epoch has as many; seed and epoch decide which documents meet.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DatasetError

Integers = NDArray[np.int64]
_PARTS = 8  # at most so many are packed each by itself
_ROWS_OF_PART = 64  # at least


@dataclass(frozen=True)
class Packs:
    """Rows of documents: row i is made of `documents[offsets[i]:offsets[i + 1]]`, in that order, `lengths[i]` tokens in all."""

    documents: Integers
    offsets: Integers
    lengths: Integers

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Integers]:
        """The documents of each row."""
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.documents[start:end]

    def rows(self, indices: Sequence[int] | Integers) -> "Packs":
        """The rows `indices`, in that order."""
        parts = [self.documents[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        documents = np.concatenate(parts) if parts else self.documents[:0]
        return Packs(documents, offsets, self.lengths[np.asarray(indices, dtype=np.int64)])


def singles(lengths: Sequence[int] | Integers) -> Packs:
    """One document a row."""
    count = len(lengths)
    return Packs(np.arange(count), np.arange(count + 1), np.asarray(lengths, dtype=np.int64))


def pack(lengths: Sequence[int] | Integers, capacity: int, seed: int, epoch: int) -> Packs:
    """All documents in few rows of at most `capacity` tokens.

    Raises:
        DatasetError: a document is longer than a row, or empty.
    """
    length = np.asarray(lengths, dtype=np.int64)
    _demand_fit(length, capacity)
    order = np.random.default_rng([seed, epoch]).permutation(len(length))
    row_of, rows = _plan(length[order], capacity)
    by_row = np.lexsort((-length[order], row_of))
    documents = order[by_row]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))]).astype(np.int64)
    sums = np.add.reduceat(length[documents], offsets[:-1]) if rows else np.zeros(0, dtype=np.int64)
    return Packs(documents, offsets, sums)


def _plan(length: Integers, capacity: int) -> tuple[Integers, int]:
    """The row of each document, and the number of rows, which is the same in whatever order the documents are.

    The documents are packed in several parts, so that their order decides who may meet at all: as a whole, the shortest would
    always stand with the shortest. A part leaves about one row that is not full, so there are as many parts as that is little.
    """
    whole, fewest = _best_fit_decreasing(length, capacity)
    parts = min(_PARTS, fewest // _ROWS_OF_PART)
    if parts < 2:
        return whole, fewest
    rows = 0
    row_of = np.empty_like(whole)
    for part in np.array_split(np.arange(len(length)), parts):
        own, count = _best_fit_decreasing(length[part], capacity)
        row_of[part] = own + rows
        rows += count
    wanted = min(fewest + parts, len(length))
    if rows > wanted:
        row_of, rows = whole, fewest
    return _spread(row_of, length, rows, wanted), wanted


def _spread(row_of: Integers, length: Integers, rows: int, wanted: int) -> Integers:
    """Give the longest documents that share a row one of their own, until there are `wanted` rows."""
    _, firsts = np.unique(row_of, return_index=True)
    others = np.delete(np.arange(len(row_of)), firsts)
    moved = others[np.argsort(-length[others], kind="stable")[: wanted - rows]]
    spread = row_of.copy()
    spread[moved] = np.arange(rows, wanted)
    return spread


def _best_fit_decreasing(length: Integers, capacity: int) -> tuple[Integers, int]:
    """The row of each document, and the number of rows."""
    # Two bytes where they do: numpy sorts those by digits, in linear time.
    order = np.argsort((capacity - length).astype(np.uint16 if capacity < 65_536 else np.int64), kind="stable")
    placed, rows = _best_fit(length[order], capacity)
    row_of = np.empty_like(placed)
    row_of[order] = placed
    return row_of, rows


def _best_fit(decreasing: Integers, capacity: int) -> tuple[Integers, int]:
    """The row of each document, and the number of rows.

    All documents of one length are placed at once: rows with the least room that fits are filled one after the other, each with
    as many as it holds, since a row that took one has less room than those beside it and so is the best fit for the next.

    Args:
        decreasing: lengths, the longest first.
        capacity: tokens of a row.
    """
    row_of = np.empty(len(decreasing), dtype=np.int64)
    rows, placed, open_rooms = 0, 0, 0  # bit r of `open_rooms` is set where `with_room[r]` has rows
    with_room: dict[int, list[Integers]] = {}
    values, counts = np.unique(decreasing, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        left = count
        while left:
            fitting = open_rooms >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                open_rooms ^= 1 << room
                parts = with_room.pop(room)
                candidates = parts[0] if len(parts) == 1 else np.concatenate(parts)
            else:
                room = capacity
                candidates = np.arange(rows, rows + -(-left // (capacity // length)), dtype=np.int64)
                rows += len(candidates)
            each = room // length
            taken = min(left, len(candidates) * each)
            full, over = divmod(taken, each)
            row_of[placed : placed + taken] = np.repeat(candidates[: full + (over > 0)], each)[:taken]
            placed, left = placed + taken, left - taken
            for part, rest in (
                (candidates[:full], room - each * length),
                (candidates[full : full + 1] if over else candidates[:0], room - over * length),
                (candidates[full + (over > 0) :], room),
            ):
                if len(part) and rest:
                    with_room.setdefault(rest, []).append(part)
                    open_rooms |= 1 << rest
    return row_of, rows


def _demand_fit(length: Integers, capacity: int) -> None:
    wrong = np.flatnonzero((length > capacity) | (length < 1))
    if len(wrong):
        first = int(wrong[0])
        raise DatasetError(
            f"{len(wrong)} of {len(length)} documents cannot be packed into rows of {capacity} tokens, the first of them "
            f"document {first} with {int(length[first])} tokens; 1 to {capacity} were expected. Raise training.max_length, or "
            f"tokenize the data again with the length that is trained with."
        )
