"""Rows of one split that share 13 words in a row with rows of another one.

What more than 10 rows hold is common to the set (a preamble, a template, a license) and says nothing about any of them; so a
run counts only where none of its words, as they stand in the held-out row, is part of such a common run. Measured on tool-use
rows, a third of the training rows would leak without that, and one in a hundred does.

Hashes of the held-out rows lie on disk. Those of training rows are looked up in an array of bits; what may be among them is
kept and compared exactly, a range of hashes at a time, so that memory does not grow with the rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tasks.data.grams import (
    RANGES,
    RECORD,
    SPAN,
    Records,
    grams_of,
    index_of,
    load_range,
    maybe_among,
    read_bits,
    records,
    save_sorted,
    write_bits,
)
from tasks.data.keys import Pairs
from tasks.data.running import After, Facts, Run, each, in_turn
from tasks.data.shards import Turns, read_shard
from tasks.data.shingles import Hashes
from tasks.encryption import arrays

if TYPE_CHECKING:
    import pyarrow as pa

COMMON_ROWS = 10  # GPT-3's paper, appendix C
TRAIN, VALIDATION, TEST = 0, 1, 2
REASONS = ("leaks_into_test", "leaks_into_validation")
_HELD: tuple[Literal["validation", "test"], ...] = ("validation", "test")
_ROWS = 8_192  # that are worked on at once
_BUDGET = 32 << 20  # bytes of records sorted at a time
_NONE = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True)
class GramJob:
    """The runs of words of a shard.

    Args:
        name: of the shard's file.
        path: the shard: row, messages.
        places: a number for each row: 0 train, 1 validation, 2 test.
        work: folder for what is found.
    """

    name: str
    path: Path
    places: Path
    work: Path

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The runs of the held-out rows."""
        return (*(self.held(name) for name in _HELD), *_with_indexes(self.ordered(name) for name in _HELD))

    def held(self, split: str) -> Path:
        """The runs of the held-out rows of a split, in their order."""
        return self.work / "held" / split / f"{self.name}.npy"

    def ordered(self, split: str) -> Path:
        """The same by hash."""
        return self.work / "ordered" / split / f"{self.name}.npy"

    def own(self, split: str) -> Path:
        """Those of them that are not common."""
        return self.work / "own" / split / f"{self.name}.npy"

    @property
    def hits(self) -> Path:
        """The runs of the training rows that may be among the held-out ones."""
        return self.work / "hits" / f"{self.name}.npy"


@dataclass(frozen=True)
class ProbeJob(After[GramJob]):
    """What the training rows of a shard may share with held-out rows."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The runs that may be shared."""
        return _with_indexes([self.of.hits])


@dataclass(frozen=True)
class OwnJob(After[GramJob]):
    """Which runs of the held-out rows of a shard are not common."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The runs that are not common."""
        return _with_indexes(self.of.own(name) for name in _HELD)


@dataclass(frozen=True)
class CheckJob:
    """The second look at a shard that was written.

    Args:
        name: of its own.
        path: the shard.
        split: which one it is part of.
        work: where the runs of the held-out rows lie.
    """

    name: str
    path: Path
    split: Literal["train", "validation"]
    work: Path

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The runs that may be shared."""
        return _with_indexes([self.hits])

    @property
    def hits(self) -> Path:
        """The runs of the shard's rows that may be among the held-out ones."""
        return self.work / "again" / self.split / f"{self.name}.npy"


@dataclass(frozen=True)
class Leaks:
    """Rows with one that each shares 13 words in a row with; sorted by row.

    Args:
        into_test: training and validation rows, and test rows.
        into_validation: the other training rows, and validation rows that are kept.
    """

    into_test: Pairs
    into_validation: Pairs

    @classmethod
    def nothing(cls) -> Self:
        """No row leaks."""
        return cls(_NONE, _NONE)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.into_test) + len(self.into_validation)

    def reasons(self) -> dict[str, Pairs]:
        """By the reason that stands in the quarantine."""
        return dict(zip(REASONS, (self.into_test, self.into_validation), strict=True))


def find(jobs: Sequence[GramJob], run: Run = in_turn) -> Leaks:
    """Training rows that share 13 words in a row with validation or test rows, and validation rows that do with test rows.

    Args:
        jobs: one a shard, with one folder `work`.
        run: in one process or in several; the result is the same.
    """
    work = jobs[0].work
    each(run, write_held_out, jobs, work / "held-marks")
    held = [job.ordered(name) for name in _HELD for job in jobs]
    write_bits(work / "bits.npy", held)
    each(run, probe, [ProbeJob(job) for job in jobs], work / "probe-marks")
    hits = [job.hits for job in jobs]
    _write_common(work / "common.npy", held, hits)
    each(run, write_own, [OwnJob(job) for job in jobs], work / "own-marks")
    own = {name: [job.own(name) for job in jobs] for name in _HELD}
    into_test = shared(own["test"], [*hits, *(job.ordered("validation") for job in jobs)])
    into_validation = shared(own["validation"], hits, without=into_test[:, 0])
    return Leaks(into_test, into_validation[~np.isin(into_validation[:, 0], into_test[:, 0])])


def find_left(jobs: Sequence[CheckJob], leaks: Leaks, run: Run = in_turn) -> Leaks:
    """The same once more, from the shards that were written: what leaks all the same.

    Args:
        jobs: the shards of train and validation, with the folder `work` that `find` filled.
        leaks: what was dropped.
        run: in one process or in several.
    """
    if not jobs:
        return Leaks.nothing()
    work = jobs[0].work
    own = {name: sorted((work / "own" / name).glob("*.npy")) for name in _HELD}
    write_bits(work / "own.npy", [*own["validation"], *own["test"]])
    each(run, look_again, jobs, work / "again-marks")
    again = {name: [job.hits for job in jobs if job.split == name] for name in ("train", "validation")}
    into_test = shared(own["test"], [*again["train"], *again["validation"]])
    return Leaks(into_test, shared(own["validation"], again["train"], without=leaks.into_test[:, 0]))


def quoted(one: str, other: str) -> str:
    """The first words that two texts share, as a message shows them; "" where only characters are words."""
    theirs = other.lower().split()
    known = {tuple(theirs[at : at + SPAN]) for at in range(len(theirs) - SPAN + 1)}
    ours = one.lower().split()
    for at in range(len(ours) - SPAN + 1):
        if tuple(ours[at : at + SPAN]) in known:
            return f' ("{" ".join(ours[at : at + SPAN])}")'
    return ""


def write_held_out(job: GramJob) -> Facts:
    """Write the runs of the validation and test rows of a shard."""
    found = dict(zip(_HELD, _grams_by_place(job, (VALIDATION, TEST)), strict=True))
    for name, some in found.items():
        arrays.save(job.held(name), some)
        save_sorted(job.ordered(name), some)
    return {"grams": sum(map(len, found.values()))}


def probe(job: ProbeJob) -> Facts:
    """Write the runs of the training rows of a shard that may be among those of held-out rows."""
    bits = read_bits(job.of.work / "bits.npy")
    (found,) = _grams_by_place(job.of, (TRAIN,), bits)
    save_sorted(job.of.hits, found)
    return {"hits": len(found)}


def look_again(job: CheckJob) -> Facts:
    """The same for all rows of a shard that was written."""
    bits = read_bits(job.work / "own.npy")
    table = read_shard(job.path, ["row", "messages"])
    parts = [_grams_in(table.slice(first, _ROWS), bits) for first in range(0, len(table), _ROWS)]
    save_sorted(job.hits, np.concatenate([np.empty(0, RECORD), *parts]))
    return {"rows": len(table)}


def _grams_by_place(job: GramJob, wanted: Sequence[int], bits: NDArray[np.uint8] | None = None) -> list[Records]:
    """The runs of a shard's rows, for each of the wanted places apart."""
    table, places = read_shard(job.path, ["row", "messages"]), arrays.load(job.places)
    found: list[list[Records]] = [[np.empty(0, RECORD)] for _ in wanted]
    for first in range(0, len(table), _ROWS):
        some, at = table.slice(first, _ROWS), places[first : first + _ROWS]
        for number, place in enumerate(wanted):
            if (at == place).any():
                found[number].append(_grams_in(some.filter(at == place), bits))
    return [np.concatenate(parts) for parts in found]


def _grams_in(table: "pa.Table", bits: NDArray[np.uint8] | None) -> Records:
    """The runs of some rows, with their numbers; with `bits` those alone that may be among the held-out ones."""
    grams, rows = grams_of(Turns.of(table))
    if bits is not None:
        there = maybe_among(bits, grams)
        grams, rows = grams[there], rows[there]
    return records(grams, table.column("row").to_numpy()[rows])


def write_own(job: OwnJob) -> Facts:
    """Write those runs of held-out rows none of whose words is part of a common run."""
    common, kept = np.asarray(arrays.opened(job.of.work / "common.npy")), 0
    for name in _HELD:
        found = arrays.load(job.of.held(name))
        own = found[~_near(_among(found["gram"], common), found["row"])]
        save_sorted(job.of.own(name), own)
        kept += len(own)
    return {"own": kept}


def _near(common: NDArray[np.bool_], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of runs in their order: which share a word with a common run of the same row."""
    before = np.concatenate([[0], np.cumsum(common)])
    at = np.arange(len(rows))
    edges = np.flatnonzero(np.diff(rows, prepend=-1, append=-1))  # where rows begin, and the end
    row = np.searchsorted(edges, at, side="right") - 1
    first = np.maximum(at - SPAN + 1, edges[row])
    last = np.minimum(at + SPAN, edges[row + 1])
    return np.asarray(before[last] > before[first], dtype=np.bool_)


def _among(grams: Hashes, some: Hashes) -> NDArray[np.bool_]:
    """Which grams are among `some`, which are sorted."""
    if not len(some):
        return np.zeros(len(grams), dtype=np.bool_)
    return np.asarray(some[np.minimum(np.searchsorted(some, grams), len(some) - 1)] == grams, dtype=np.bool_)


def _write_common(path: Path, held: Sequence[Path], hits: Sequence[Path]) -> None:
    """Write the runs of held-out rows that more than COMMON_ROWS of all rows hold, sorted."""
    found = [np.zeros(0, dtype=np.uint64)]
    for ours, theirs in zip(*_in_ranges(held, hits), strict=True):
        every = np.concatenate([ours, theirs[_among(theirs["gram"], np.unique(ours["gram"]))]])
        grams, times = np.unique(every["gram"], return_counts=True)
        often = every[_among(every["gram"], grams[times > COMMON_ROWS])]
        often = often[np.lexsort((often["row"], often["gram"]))]
        again = (often["gram"][1:] == often["gram"][:-1]) & (often["row"][1:] == often["row"][:-1])  # twice in one row
        grams, times = np.unique(np.delete(often["gram"], np.flatnonzero(again) + 1), return_counts=True)
        found.append(grams[times > COMMON_ROWS])
    arrays.save(path, np.concatenate(found))


def shared(held: Sequence[Path], others: Sequence[Path], without: NDArray[np.int64] | None = None) -> Pairs:
    """Each row of `others` that has a run of `held`, with the first row that has it there; sorted by row.

    Args:
        held: records of held-out rows.
        others: records of other rows.
        without: held-out rows that do not count.
    """
    found = [_NONE]
    for ours, theirs in zip(*_in_ranges(held, others), strict=True):
        kept = ours if without is None else ours[~np.isin(ours["row"], without)]
        kept = kept[np.lexsort((kept["row"], kept["gram"]))]
        hits = theirs[_among(theirs["gram"], kept["gram"])]
        partners = kept["row"][np.searchsorted(kept["gram"], hits["gram"])]
        found.append(_first_of_each(np.stack([hits["row"], partners], axis=1)))
    return _first_of_each(np.concatenate(found))


def _first_of_each(pairs: Pairs) -> Pairs:
    """Of the pairs of a row the one with the lowest partner; sorted by row."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return np.asarray(pairs[np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))], dtype=np.int64)


def _in_ranges(*groups: Sequence[Path]) -> list[Iterator[Records]]:
    """The records of several groups of files, one range of grams after the other."""
    total = sum(path.stat().st_size for files in groups for path in files)
    count = min(1 << max(0, (total // _BUDGET).bit_length()), RANGES)
    return [_ranges(files, count) for files in groups]


def _ranges(files: Sequence[Path], count: int) -> Iterator[Records]:
    width = RANGES // count
    for first in range(0, RANGES, width):
        yield np.concatenate([np.empty(0, dtype=RECORD), *(load_range(path, first, first + width) for path in files)])


def _with_indexes(files: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(each for path in files for each in (path, index_of(path)))
