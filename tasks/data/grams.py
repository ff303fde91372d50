"""Runs of 13 words as hashes, and which of very many hashes may be among some.

Two texts that share 13 words in a row share more than chance gives (GPT-3's paper, appendix C). A row of fewer words is one
run.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.data.shards import Turns
from tasks.data.shingles import Hashes, Places, mixed, words_of
from tasks.encryption import arrays

SPAN = 13
RECORD = np.dtype([("gram", "<u8"), ("row", "<i8")])
Records = NDArray[np.void]  # of RECORD
RANGES_POWER = 12
RANGES = 1 << RANGES_POWER  # into which grams are divided, by their first bits
_FACTOR = 0x9E3779B97F4A7C15
_ALONE = np.uint64(0xD6E8FEB86659FD93)
_SLOTS = 16  # bits for each hash: of the hashes that are not among them, one in 16 or fewer looks as if it were
_FEWEST, _MOST = 16, 31  # powers of two: 8 KiB, 256 MiB


def grams_of(turns: Turns) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all runs of words but for the system's message, in order, and the row of each."""
    words = words_of(turns.content.filter(pl.Series(turns.spoken)))
    starts = words.starts[np.searchsorted(turns.row[turns.spoken], np.arange(turns.count + 1))]
    return runs(words.flat, starts)


def runs(words: Hashes, starts: Places) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all runs of words, and the row of each; row `i` has the words from `starts[i]` to `starts[i + 1]`."""
    lengths = np.diff(starts)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    count = max(len(words) - SPAN + 1, 0)
    inside = rows[:count] == rows[SPAN - 1 :]
    grams, owners = mixed(_rolled(words, count)[inside]), rows[:count][inside]
    short = np.flatnonzero((lengths > 0) & (lengths < SPAN))
    if not len(short):
        return grams, owners
    owners = np.concatenate([owners, short])
    order = np.argsort(owners, kind="stable")
    return np.concatenate([grams, _whole(words, starts[short], lengths[short])])[order], owners[order]


def _rolled(words: Hashes, count: int) -> Hashes:
    """A polynomial of each 13 neighbours: of 2, of 4, of 8, and 8 + 4 + 1."""
    if not count:
        return np.zeros(0, dtype=np.uint64)
    one, two, four = (np.uint64(pow(_FACTOR, power, 1 << 64)) for power in (1, 2, 4))
    pairs = words[:-1] * one + words[1:]
    fours = pairs[:-2] * two + pairs[2:]
    eights = fours[:-4] * four + fours[4:]
    return (eights[:count] * four + fours[8 : 8 + count]) * one + words[12 : 12 + count]


def _whole(words: Hashes, starts: Places, lengths: Places) -> Hashes:
    """A polynomial of all words of short rows, unlike that of any run of 13."""
    found = lengths.astype(np.uint64) * _ALONE
    for number in range(SPAN - 1):
        there = lengths > number
        found[there] = found[there] * np.uint64(_FACTOR) + words[starts[there] + number]
    return mixed(found ^ _ALONE)


def records(grams: Hashes, rows: NDArray[np.int64]) -> Records:
    """Grams with their rows, as they are kept on disk."""
    found = np.empty(len(grams), dtype=RECORD)
    found["gram"], found["row"] = grams, rows
    return found


def save_sorted(path: Path, found: Records) -> None:
    """Write records by gram, and where each range of grams begins, so that one range can be read alone."""
    ordered = found[np.argsort(found["gram"], kind="stable")]
    arrays.save(path, ordered)
    arrays.save(index_of(path), np.searchsorted(ordered["gram"] >> np.uint64(64 - RANGES_POWER), np.arange(RANGES + 1)))


def index_of(path: Path) -> Path:
    """Where the beginnings of the ranges lie."""
    return path.with_suffix(".index")


def load_range(path: Path, first: int, last: int) -> Records:
    """The records of some ranges, from the first up to the last, not itself."""
    index = arrays.load(index_of(path))
    return np.asarray(arrays.opened(path)[int(index[first]) : int(index[last])])


def write_bits(path: Path, files: Sequence[Path]) -> None:
    """Write an array of bits, one set for each gram of `files`, of at most 256 MiB.

    Args:
        path: where to.
        files: of records.
    """
    count = sum(len(arrays.opened(file)) for file in files)
    power = min(max((_SLOTS * count).bit_length(), _FEWEST), _MOST)
    bits = np.zeros((1 << power) // 8, dtype=np.uint8)
    for file in files:
        place = arrays.load(file)["gram"] >> np.uint64(64 - power)
        np.bitwise_or.at(bits, (place >> np.uint64(3)).astype(np.int64), _bit(place))
    arrays.save(path, bits)


def read_bits(path: Path) -> NDArray[np.uint8]:
    """What `write_bits` wrote; mapped into memory, which processes share, unless it is sealed."""
    return np.asarray(arrays.opened(path), dtype=np.uint8)


def maybe_among(bits: NDArray[np.uint8], grams: Hashes) -> NDArray[np.bool_]:
    """Which grams have their bit set: all that were written, and a few others."""
    power = len(bits).bit_length() + 2
    place = grams >> np.uint64(64 - power)
    return np.asarray(bits[(place >> np.uint64(3)).astype(np.int64)] & _bit(place), dtype=np.bool_)


def _bit(place: Hashes) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8))
