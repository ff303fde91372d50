"""Arrays of a dataset on disk: read whole, or in parts as they are used."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tasks.encryption import vault
from tasks.encryption.container import CHUNK, Reader


class SealedArray:
    """An array in a sealed file: only the rows that are asked for are read. Rows are what the first axis counts.

    Args:
        reader: the file.
        first: where the values begin.
        dtype: of a value.
        shape: of the whole.
    """

    def __init__(self, reader: Reader, first: int, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
        self._reader, self._first, self.dtype, self.shape = reader, first, np.dtype(dtype), shape
        self._row = self.dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self._rows(0, len(self)).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        """One row, neighbouring rows, or the rows of an array of numbers, none of them negative."""
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            if step != 1:
                raise IndexError(f"rows of a sealed array are read one after the other, not in steps of {step}")
            return self._rows(first, last)
        if isinstance(key, int | np.integer):
            if not 0 <= key < len(self):
                raise IndexError(f"row {key} of {len(self)}")
            return self._rows(int(key), int(key) + 1)[0]
        return self._picked(np.asarray(key))

    def _picked(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, each chunk of the file read once."""
        unique, places = np.unique(rows, return_inverse=True)
        found = np.empty((len(unique), *self.shape[1:]), dtype=self.dtype)
        blocks = unique // max(1, CHUNK // self._row)
        bounds = np.flatnonzero(np.diff(blocks, prepend=-1, append=-1))
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            first, last = int(unique[begin]), int(unique[end - 1]) + 1
            found[begin:end] = self._rows(first, last)[unique[begin:end] - first]
        return found[places.reshape(rows.shape)]

    def _rows(self, first: int, last: int) -> NDArray[Any]:
        values = np.empty((max(0, last - first), *self.shape[1:]), dtype=self.dtype)
        self._reader.seek(self._first + first * self._row)
        if values.nbytes:
            self._reader.readinto(values.reshape(-1).view(np.uint8).data)
        return values


def save(path: Path, array: NDArray[Any]) -> None:
    """Write one array."""
    with vault.writing(path) as file:
        np.save(file, array, allow_pickle=False)


def save_parts(path: Path, parts: Iterable[NDArray[Any]], dtype: DTypeLike, count: int) -> None:
    """Write one array of `count` values, of which only a part is in memory at a time."""
    with vault.writing(path) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(part.astype(dtype, copy=False).tobytes())


def save_many(path: Path, **arrays: NDArray[Any]) -> None:
    """Write named arrays."""
    with vault.writing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: Path) -> NDArray[Any]:
    """A whole array."""
    return np.asarray(np.load(vault.source(path), allow_pickle=False))


def load_many(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Named arrays of a file: those of `names`, or all of them."""
    with np.load(vault.source(path), allow_pickle=False) as found:
        return {name: found[name] for name in names or found.files}


def opened(path: Path) -> Any:
    """An array of which only the rows that are used are read: mapped into memory, or a SealedArray."""
    found = vault.source(path)
    if isinstance(found, Path):
        return np.asarray(np.load(found, mmap_mode="r", allow_pickle=False))
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    head = io.BytesIO(found.read(CHUNK))
    shape, _, dtype = read[np.lib.format.read_magic(head)](head)
    return SealedArray(found, head.tell(), dtype, shape)


def flat(path: Path, dtype: DTypeLike) -> Any:
    """Values without a header, of which only those that are used are read: mapped into memory, or a SealedArray."""
    found = vault.source(path)
    if isinstance(found, Path):
        return np.asarray(np.memmap(found, dtype, "r"))
    return SealedArray(found, 0, dtype, (found.size // np.dtype(dtype).itemsize,))
