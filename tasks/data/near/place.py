"""Where the passes keep what they find: a folder of files, one or more a shard."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.encryption import arrays as files
from tasks.encryption import vault

Positions = NDArray[np.int64]  # 0 for the first row of all, without the gaps that row numbers may have
LOW = np.uint64((1 << 32) - 1)
HALF = np.uint64(32)
_PART_ROWS = 1 << 21  # of one band, sorted in memory at a time


@dataclass(frozen=True)
class Place:
    """What every pass must know.

    Args:
        folder: for the files of this search alone.
        threshold: share of words and word pairs, above 0 to 1.
        sizes: rows of each shard.
    """

    folder: Path
    threshold: float
    sizes: tuple[int, ...]

    def file(self, kind: str, number: int = 0) -> Path:
        """The file of a shard, or of a part of a band."""
        return self.folder / kind / f"{number:05d}"

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.sizes)

    @property
    def rows(self) -> int:
        """How many rows there are in all shards."""
        return sum(self.sizes)

    @property
    def parts(self) -> int:
        """Into how many ranges of keys a band is divided."""
        return max(1, -(-self.rows // _PART_ROWS))

    @cached_property
    def firsts(self) -> Positions:
        """The position of each shard's first row, and the end."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)


@dataclass(frozen=True)
class Piece:
    """The work of one pass on one shard (or one part of a band)."""

    place: Place
    kind: str
    number: int
    source: Path | None = None

    @property
    def name(self) -> str:
        """Of its mark."""
        return f"{self.kind}-{self.number:05d}"

    @property
    def outputs(self) -> Sequence[Path]:
        """The files that it writes."""
        if self.kind == "alike":
            return [self.place.folder.parent / "alike.parquet"]
        if self.kind == "candidates":
            return [self.place.file("pairs", number) for number in range(self.place.shards)]
        kinds = ("signatures", "keys") if self.kind == "signatures" else (self.kind,)
        return [self.place.file(kind, self.number) for kind in kinds]


def save(path: Path, **arrays: NDArray[Any]) -> None:
    """Write named arrays so that the file is there whole or not at all."""
    files.save_many(path, **arrays)


def load(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file: those of `names`, or all of them."""
    return files.load_many(path, *names)


def save_plain(path: Path, array: NDArray[Any]) -> None:
    """Write one array so that it can be mapped into memory."""
    files.save(path, array)


def mapped(path: Path) -> Any:
    """One array, of which only the rows that are used are read."""
    return files.opened(path)


def save_blocks(path: Path, blocks: Iterable[NDArray[Any]], count: int) -> int:
    """Write so many arrays, each of which can be read alone; only one is in memory. Returns the bytes of all."""
    bounds = np.zeros(count + 1, dtype="<i8")
    with vault.writing(path) as file:
        for number, block in enumerate(blocks):
            bounds[number + 1] = bounds[number] + block.nbytes
            file.write(block.astype(block.dtype.newbyteorder("<")).tobytes())
        file.write(bounds.tobytes() + np.array(count, dtype="<i8").tobytes())  # at the end: files are written in order
    return int(bounds[count])


def blocks_of(data: NDArray[Any], bounds: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """The parts of an array from each bound to the next."""
    return (data[first:last] for first, last in pairwise(bounds.tolist()))


def load_block(path: Path, number: int, kind: type[np.generic]) -> NDArray[Any]:
    """One block of a file."""
    found = vault.source(path)
    with found.open("rb", buffering=0) if isinstance(found, Path) else found as file:
        end = file.seek(-8, os.SEEK_END)
        count = int(np.frombuffer(file.read(8), dtype="<i8")[0])
        file.seek(end - 8 * (count + 1 - number))
        first, last = np.frombuffer(file.read(16), dtype="<i8").tolist()
        file.seek(first)
        return np.frombuffer(file.read(last - first) if last > first else b"", dtype=kind)
