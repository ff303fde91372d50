"""Texts to sets of hashed words and word pairs, whole columns at a time.

A word is what stands between blanks, in lower case; in scripts without spaces each character is a word. Hashes are plain
integer arithmetic on the bytes of UTF-8, so they are the same on every machine and with every version of the libraries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]  # where each row begins in a flat array, and the end

# Thai to Burmese, Khmer, kana, Han, Hangul.
_UNSPACED = "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af])"
_WIDE_BLANKS = "[\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_BLANK = np.zeros(256, dtype=np.bool_)
_BLANK[list(b"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f ")] = True
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_FIRST, _SECOND, _ALONE = (np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_MIXER = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)
_CHUNK_BYTES = 1 << 18  # hashed at once: what fits a processor's cache


@dataclass(frozen=True)
class Sets:
    """For each row a sorted set of 32-bit hashes: row `i` is `flat[starts[i] : starts[i + 1]]`."""

    flat: NDArray[np.uint32]
    starts: Places

    def __len__(self) -> int:
        return len(self.starts) - 1

    def sizes(self) -> NDArray[np.int64]:
        """How many hashes each row has."""
        return np.diff(self.starts)

    def rows(self) -> NDArray[np.int64]:
        """The row of every hash."""
        return np.repeat(np.arange(len(self)), self.sizes())

    def where(self, keep: NDArray[np.bool_]) -> "Sets":
        """The sets without the hashes that are not kept."""
        before = np.concatenate([[0], np.cumsum(keep)])
        return Sets(self.flat[keep], before[self.starts])

    def take(self, rows: NDArray[np.int64]) -> "Sets":
        """The sets of some rows, in their order."""
        sizes = self.sizes()[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        places = np.repeat(self.starts[rows] - starts[:-1], sizes) + np.arange(starts[-1])
        return Sets(self.flat[places], starts)


@dataclass(frozen=True)
class Words:
    """The hashed words of each row, in order: row `i` is `flat[starts[i] : starts[i + 1]]`."""

    flat: Hashes
    starts: Places

    def counts(self) -> NDArray[np.int64]:
        """How many words each row has."""
        return np.diff(self.starts)

    def sets(self) -> Sets:
        """The different words of each row."""
        return _sets([(self._rows(), mixed(self.flat * _ALONE))], len(self.starts) - 1)

    def sets_with_pairs(self) -> Sets:
        """The different words and pairs of neighbouring words of each row."""
        rows = self._rows()
        together = rows[1:] == rows[:-1]
        pairs = mixed(self.flat[:-1] * _FIRST + self.flat[1:] * _SECOND)
        alone = mixed(self.flat * _ALONE)
        return _sets([(rows, alone), (rows[:-1][together], pairs[together])], len(self.starts) - 1)

    def _rows(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.starts) - 1), self.counts())


def words_of(texts: pl.Series) -> Words:
    """The words of each text."""
    parts, starts = [np.zeros(0, dtype=np.uint64)], [np.zeros(1, dtype=np.int64)]
    for data, rows in _chunks(_spaced(texts)):
        hashes, firsts = _hash_words(data, rows)
        parts.append(hashes)
        starts.append(firsts[1:] + starts[-1][-1])
    return Words(np.concatenate(parts), np.concatenate(starts))


def mixed(values: Hashes) -> Hashes:
    """Each bit of the result depends on each bit of the value."""
    values = values ^ (values >> _HALF)
    values *= _MIXER
    values ^= values >> _HALF
    values *= _MIXER
    return values ^ (values >> _HALF)


def join(parts: list[Sets]) -> Sets:
    """The rows of several, one after the other."""
    starts = [np.zeros(1, dtype=np.int64)]
    for part in parts:
        starts.append(part.starts[1:] + starts[-1][-1])
    return Sets(np.concatenate([np.zeros(0, dtype=np.uint32), *(part.flat for part in parts)]), np.concatenate(starts))


def contained(flat: NDArray[np.uint32], some: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which hashes are among `some`, which is sorted."""
    found = np.zeros(len(flat), dtype=np.bool_)
    if len(some):
        table = np.zeros(1 << 24, dtype=np.bool_)  # the first 24 bits spare looking up nearly all
        table[some >> np.uint32(8)] = True
        likely = np.flatnonzero(table[flat >> np.uint32(8)])
        places = np.minimum(np.searchsorted(some, flat[likely]), len(some) - 1)
        found[likely] = some[places] == flat[likely]
    return found


def _sets(parts: list[tuple[NDArray[np.int64], Hashes]], count: int) -> Sets:
    keys = np.concatenate([(rows.astype(np.uint64) << _HALF) | (hashes >> _HALF) for rows, hashes in parts])
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    starts = np.searchsorted(keys, np.arange(count + 1, dtype=np.uint64) << _HALF)
    return Sets(keys.astype(np.uint32), starts.astype(np.int64))


def _spaced(texts: pl.Series) -> pl.Series:
    """In lower case, with a blank between words and at the end."""
    frame = pl.DataFrame({"text": texts}).select(pl.col("text").fill_null("").str.to_lowercase())
    wide = pl.col("text").str.len_bytes() != pl.col("text").str.len_chars()
    if frame.select(wide.any()).item():
        spaced = pl.col("text").str.replace_all(_WIDE_BLANKS, " ").str.replace_all(_UNSPACED, " $1 ")
        frame = frame.with_columns(pl.when(wide).then(spaced).otherwise(pl.col("text")).alias("text"))
    return frame.select(pl.col("text") + " ").to_series()


def _chunks(texts: pl.Series) -> Iterator[tuple[NDArray[np.uint8], Places]]:
    """The bytes of some rows, and where each begins."""
    import pyarrow as pa

    column = texts.to_arrow().cast(pa.large_string())
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    octets = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    first = 0
    while first < len(column):
        last = int(np.searchsorted(places, places[first] + _CHUNK_BYTES, side="right")) - 1
        last = max(last, first + 1)
        yield octets[places[first] : places[last]], places[first : last + 1] - places[first]
        first = last


def _hash_words(data: NDArray[np.uint8], rows: Places) -> tuple[Hashes, Places]:
    """A polynomial of the bytes of each word, and the place of each row's first word.

    With the running sum S of c[i] * B**i, the word from a to b is (S[b] - S[a]) / B**a modulo 2**64.
    """
    blank = _BLANK[data]
    edges = np.flatnonzero(np.diff(blank, prepend=True))
    starts, ends = edges[0::2], edges[1::2]
    powers, inverses = _powers(1 << max(len(data) - 1, 1).bit_length())
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers[: len(data)], out=sums[1:])
    hashes = (sums[ends] - sums[starts]) * inverses[starts]
    return mixed(hashes + (ends - starts).astype(np.uint64)), np.searchsorted(starts, rows).astype(np.int64)


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """The first powers of the base and of its inverse."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        factors = np.full(count, base, dtype=np.uint64)
        factors[0] = 1
        both.append(np.cumprod(factors, dtype=np.uint64))
    return both[0], both[1]
