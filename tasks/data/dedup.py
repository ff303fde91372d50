"""Which rows say nearly the same: MinHash finds candidates, the exact Jaccard of word 3-grams decides.

3-grams that many rows share are left out first: rows with one preamble and different tasks are no duplicates. Measured
on Alpaca-like sets: without that, two thirds of what was flagged had unlike answers.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shingles = NDArray[np.uint64]
Signatures = NDArray[np.uint32]  # (rows, permutations)
_WORDS = 3
_PERMUTATIONS = 128
_SEED = 42
_WORST_RECALL = 0.99  # of pairs right at the threshold
_MOST_CANDIDATES = 64  # looked at a row; more are alike than differ
_OFTEN, _OFTEN_SHARE = 100, 0.002
_ESTIMATE_ERROR = 0.2  # more than four standard errors of 128 permutations
_RELATED = 0.5  # kept rows this alike stay in one split
# Scripts written without spaces (Thai to Burmese, Khmer, kana, Han, Hangul): each character is a word.
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af])")


@dataclass(frozen=True)
class Alike:
    """Row index -> the earlier row that it repeats, and groups of rows that belong together."""

    duplicate_of: dict[int, int]
    leader: list[int]  # for each row the first row of its group


def words_of(text: str) -> list[str]:
    """Lower-case words; in scripts without spaces, characters."""
    text = text.lower()
    return (text if text.isascii() else _UNSPACED.sub(r" \1 ", text)).split()


class Shingler:
    """Texts to sets of 64-bit hashes of word 3-grams, each word hashed once."""

    def __init__(self) -> None:
        self._hashes: dict[str, int] = {}

    def shingles(self, text: str) -> Shingles:
        """Sorted, unique; a text of fewer than three words is one shingle."""
        known = self._hashes
        words = words_of(text)
        for word in words:
            if word not in known:
                known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        hashes = np.fromiter((known[word] for word in words), dtype=np.uint64, count=len(words))
        width = min(_WORDS, len(hashes))
        mixed = np.zeros(max(len(hashes) - width + 1, 0) if width else 0, dtype=np.uint64)
        for offset in range(width):
            mixed = (mixed * np.uint64(0x9E3779B97F4A7C15)) ^ hashes[offset : offset + len(mixed)]
            mixed ^= mixed >> np.uint64(29)
        return np.unique(mixed)


def jaccard(one: Shingles, other: Shingles) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return common / union if union else 1.0


def find_alike(wholes: Sequence[str], answers: Sequence[str], threshold: float) -> Alike:
    """Rows that repeat an earlier kept row by `threshold` in all they say and in their answer.

    Args:
        wholes: prompt and answer of each row.
        answers: its answer alone.
        threshold: Jaccard share of 3-grams, above 0 to 1.
    """
    shingler = Shingler()
    full = [shingler.shingles(text) for text in wholes]
    replies = [shingler.shingles(text) for text in answers]
    rare = without_frequent(full)
    signatures = _signatures(rare)
    keys = _band_keys(signatures, np.array([len(one) for one in rare]), threshold)
    buckets: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    duplicate_of: dict[int, int] = {}
    groups = _Groups(len(full))
    for row, row_keys in enumerate(keys):
        near = sorted({other for key in row_keys for other in buckets[key]})[:_MOST_CANDIDATES]
        for other in _likely(row, near, signatures, min(threshold, _RELATED)):
            share = jaccard(rare[row], rare[other])
            if share >= _RELATED:
                groups.join(other, row)
            same = share >= threshold and jaccard(replies[row], replies[other]) >= threshold
            if same and jaccard(full[row], full[other]) >= threshold:
                duplicate_of[row] = other
                break
        else:
            for key in row_keys:
                buckets[key].append(row)
    return Alike(duplicate_of, [groups.leader(row) for row in range(len(full))])


def without_frequent(sets: Sequence[Shingles]) -> list[Shingles]:
    """The sets without shingles that occur in more than max(100, 0.2 %) of them."""
    if not sets:
        return []
    flat = np.concatenate(sets)
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    keep = (counts <= max(_OFTEN, _OFTEN_SHARE * len(sets)))[inverse]
    ends = np.cumsum([len(one) for one in sets])
    parts = np.split(flat, ends[:-1])
    return [part[mask] for part, mask in zip(parts, np.split(keep, ends[:-1]), strict=True)]


def _rows_a_band(threshold: float) -> int:
    """The longest band whose candidates still hold pairs at the threshold with 99 % probability: 1 - (1 - t^r)^b."""
    good = [r for r in (1, 2, 4, 8, 16) if 1 - (1 - threshold**r) ** (_PERMUTATIONS // r) >= _WORST_RECALL]
    return max(good, default=1)


def _likely(row: int, near: list[int], signatures: Signatures, share: float) -> list[int]:
    """The candidates whose estimated Jaccard is not far below `share`; spares computing the exact one of the others."""
    if not near:
        return near
    estimates = (signatures[near] == signatures[row]).mean(axis=1)
    return [other for other, estimate in zip(near, estimates, strict=True) if estimate >= share - _ESTIMATE_ERROR]


def _signatures(sets: Sequence[Shingles]) -> Signatures:
    """A MinHash signature a row."""
    from rensa import RMinHash

    lengths = np.array([len(one) for one in sets], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.concatenate(sets) if len(sets) else np.zeros(0, dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, _PERMUTATIONS, _SEED)
    return np.asarray(matrix.to_rows(), dtype=np.uint32).reshape(len(sets), _PERMUTATIONS)


def _band_keys(signatures: Signatures, lengths: NDArray[np.int64], threshold: float) -> list[list[tuple[int, int]]]:
    """For each row the keys of the buckets that it shares with another row."""
    width = _rows_a_band(threshold)
    keys: list[list[tuple[int, int]]] = [[] for _ in signatures]
    for band in range(_PERMUTATIONS // width):
        block = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
        _, inverse, counts = np.unique(block, axis=0, return_inverse=True, return_counts=True)
        shared = (counts[inverse] > 1) & (lengths > 0)  # a row without rare shingles resembles nothing
        for row in np.flatnonzero(shared):
            keys[row].append((band, int(inverse[row])))
    return keys


class _Groups:
    """Disjoint sets of rows, each led by its first row; one that reaches a hundredth of all rows grows no further."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self._size = [1] * count
        self._largest = max(10, count // 100)

    def leader(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.leader(one), self.leader(other)))
        if first != second and self._size[first] + self._size[second] <= self._largest:
            self._parent[second] = first
            self._size[first] += self._size[second]
