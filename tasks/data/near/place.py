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
    fresh = _fresh(path)
    with fresh.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    fresh.replace(path)


def load(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def save_plain(path: Path, array: NDArray[Any]) -> None:
    """Write one array so that it can be mapped into memory."""
    fresh = _fresh(path)
    with fresh.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    fresh.replace(path)


def mapped(path: Path) -> NDArray[Any]:
    """One array, of which only what is used is read."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def save_blocks(path: Path, blocks: Iterable[NDArray[Any]], count: int) -> int:
    """Write so many arrays, each of which can be read alone; only one is in memory. Returns the bytes of all."""
    bounds = np.zeros(count + 1, dtype="<i8")
    fresh = _fresh(path)
    with fresh.open("wb") as file:
        file.write(bounds.tobytes())
        for number, block in enumerate(blocks):
            bounds[number] = file.tell()
            file.write(block.astype(block.dtype.newbyteorder("<")).tobytes())
        bounds[count] = file.tell()
        file.seek(0)
        file.write(bounds.tobytes())
    fresh.replace(path)
    return int(bounds[count] - bounds.nbytes)


def blocks_of(data: NDArray[Any], bounds: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    """The parts of an array from each bound to the next."""
    return (data[first:last] for first, last in pairwise(bounds.tolist()))


def load_block(path: Path, number: int, kind: type[np.generic]) -> NDArray[Any]:
    """One block of a file."""
    with path.open("rb", buffering=0) as file:
        file.seek(8 * number)
        first, last = np.frombuffer(file.read(16), dtype="<i8").tolist()
        file.seek(first)
        return np.frombuffer(file.read(last - first) if last > first else b"", dtype=kind)


def _fresh(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.new")
