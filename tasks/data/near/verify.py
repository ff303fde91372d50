"""The exact similarity of the pairs that may be alike.

The sets of the earlier rows are brought to the shards of the later ones first, so that every file is read in order, and never
more than two shards are in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.near.candidates import RELATED
from tasks.data.near.place import HALF, LOW, Piece, load, load_block, save, save_blocks
from tasks.data.shingles import Sets, contained

ANSWER = 0.72  # share of the words of two answers; chosen with the threshold, see benchmarks/README.md
LONG = 30  # words; in shorter rows one other word is another meaning
_AT_ONCE = 1 << 19  # hashes compared at a time


@dataclass(frozen=True)
class Texts:
    """What is compared of some rows."""

    words: NDArray[np.int64]
    whole: Sets
    rare: Sets
    answer: Sets

    def take(self, rows: NDArray[np.int64]) -> "Texts":
        """Some rows, in their order."""
        return Texts(self.words[rows], self.whole.take(rows), self.rare.take(rows), self.answer.take(rows))


def send(piece: Piece) -> dict[str, int]:
    """Write the sets of a shard's rows for each shard whose rows must be compared with them."""
    return {"bytes": save_blocks(piece.outputs[0], _blocks(piece), piece.place.shards)}


def _blocks(piece: Piece) -> Iterator[NDArray[np.uint32]]:
    place, texts = piece.place, _texts_of(piece)
    for number in range(place.shards):
        pairs = load_block(place.file("pairs", number), piece.number, np.uint64) if number >= piece.number else _NONE
        rows = np.unique((pairs >> HALF).astype(np.int64) - place.firsts[piece.number])
        yield _packed(rows, texts) if len(rows) else np.zeros(0, dtype=np.uint32)


def verify(piece: Piece) -> dict[str, int]:
    """Write the pairs of a shard's rows with earlier ones that are alike, sorted by later and earlier row."""
    place = piece.place
    texts = _texts_of(piece)
    later, earlier, same = [_NONE], [_NONE], [np.zeros(0, dtype=np.bool_)]
    for number in range(piece.number + 1):
        pairs = load_block(place.file("pairs", piece.number), number, np.uint64)
        if not len(pairs):
            continue
        rows, others = _unpacked(load_block(place.file("sent", number), piece.number, np.uint32))
        ones = (pairs & LOW).astype(np.int64) - place.firsts[piece.number]
        twos = np.searchsorted(rows, (pairs >> HALF).astype(np.int64) - place.firsts[number])
        alike, equal = _compare(texts, ones, others, twos, place.threshold)
        later.append((pairs & LOW)[alike])
        earlier.append((pairs >> HALF)[alike])
        same.append(equal[alike])
    keys = (np.concatenate(later) << HALF) | np.concatenate(earlier)
    order = np.argsort(keys, kind="stable")
    save(piece.outputs[0], pairs=keys[order], same=np.concatenate(same)[order])
    return {"alike": len(keys)}


_NONE = np.zeros(0, dtype=np.uint64)


def _texts_of(piece: Piece) -> Texts:
    arrays = load(piece.place.file("sets", piece.number))
    whole = Sets(arrays["flat"], arrays["starts"])
    rare = whole.where(~contained(whole.flat, load(piece.place.file("frequent"))["hashes"]))
    return Texts(arrays["words"], whole, rare, Sets(arrays["answer_flat"], arrays["answer_starts"]))


def _packed(rows: NDArray[np.int64], texts: Texts) -> NDArray[np.uint32]:
    """Numbers alone: how many rows, then of each its place, words and sizes, then all sets."""
    some = texts.take(rows)
    sets = (some.whole, some.rare, some.answer)
    numbers: list[NDArray[Any]] = [np.array([len(rows)]), rows, some.words, *(one.sizes() for one in sets)]
    return np.concatenate([part.astype(np.uint32) for part in (*numbers, *(one.flat for one in sets))])


def _unpacked(block: NDArray[np.uint32]) -> tuple[NDArray[np.int64], Texts]:
    count = int(block[0])
    rows, words, *sizes = block[1 : 1 + 5 * count].reshape(5, count).astype(np.int64)
    first = 1 + 5 * count
    sets = []
    for one in sizes:
        starts = np.concatenate([[0], np.cumsum(one)])
        sets.append(Sets(block[first : first + starts[-1]], starts))
        first += int(starts[-1])
    return rows, Texts(words, *sets)


def _compare(
    one: Texts, ones: NDArray[np.int64], two: Texts, twos: NDArray[np.int64], threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pairs are alike at all, and which of them are duplicates."""
    rare = jaccard(one.rare, ones, two.rare, twos)
    whole = jaccard(one.whole, ones, two.whole, twos)
    answer = jaccard(one.answer, ones, two.answer, twos)
    long = (one.words[ones] >= LONG) & (two.words[twos] >= LONG)
    near = long & (rare >= threshold) & (whole >= threshold) & (answer >= max(ANSWER, threshold))
    equal = near | ((whole == 1) & (answer == 1))
    return equal | (rare >= RELATED), equal


def jaccard(one: Sets, ones: NDArray[np.int64], two: Sets, twos: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each pair of rows the size of the intersection over that of the union; 0 where both are empty."""
    sizes = one.sizes()[ones] + two.sizes()[twos]
    common = np.zeros(len(ones), dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    first = 0
    while first < len(ones):
        last = max(int(np.searchsorted(ends, ends[first] + _AT_ONCE, side="right")) - 1, first + 1)
        common[first:last] = _common(one.take(ones[first:last]), two.take(twos[first:last]))
        first = last
    return np.asarray(common / np.maximum(sizes - common, 1))


def _common(one: Sets, two: Sets) -> NDArray[np.int64]:
    """Of each row how many hashes both have."""
    keys, others = ((sets.rows().astype(np.uint64) << HALF) | sets.flat for sets in (one, two))
    if not len(others):
        return np.zeros(len(one), dtype=np.int64)
    places = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    return np.bincount(one.rows()[others[places] == keys], minlength=len(one))
