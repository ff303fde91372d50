"""Tokenized sequences as flat arrays: in memory where they are small, else in files mapped into memory.

The files are scratch beside the checkpoints: `NAME.tokens`, `NAME.supervised` and `NAME.offsets`, and written last `NAME.json`
with where they are from, their bytes and their hashes. What it does not describe is written anew. Of encrypted data they are
encrypted too, and only what a batch needs is opened, in memory.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.contracts import digest_of
from tasks.encryption import arrays as files_of
from tasks.encryption import vault
from tasks.errors import DatasetError, WorkspaceError
from tasks.storage import sha256_file, write_text

IN_MEMORY = 256 * 2**20  # bytes of tokens
_COLUMNS = ("input_ids", "supervised")
_BATCH = 2_000  # rows that are in memory at once
_TYPES: dict[str, np.dtype[Any]] = {"tokens": np.dtype("<i4"), "supervised": np.dtype("i1"), "offsets": np.dtype("<i8")}
Chunk = tuple[NDArray[np.int32], NDArray[np.int8], NDArray[np.int64]]


@dataclass(frozen=True)
class Sequences:
    """All sequences of a split, flat: sequence i is `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.int8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.offsets)

    def learned(self, indices: Sequence[int] | range | NDArray[np.int64]) -> int:
        """Supervised tokens of the sequences `indices`; the first token of a sequence is predicted from nothing."""
        return sum(int(self.supervised[self.offsets[i] + 1 : self.offsets[i + 1]].sum()) for i in indices)


def read_sequences(path: Path, scratch: Path | None = None, in_memory: int = IN_MEMORY, check: bool = True) -> Sequences:
    """The sequences of a tokenized Parquet file, or of the shards `part-*.parquet` of a folder in the order of their names.

    Args:
        path: the file or folder.
        scratch: folder for what is mapped into memory; None reads everything into memory.
        in_memory: bytes of tokens above which `scratch` is used.
        check: whether what `scratch` holds is compared with its hashes and its source; not needed where a process just did.

    Raises:
        DatasetError: the folder has no shards, or a shard's marks do not belong to its tokens.
        WorkspaceError: there is no room for the scratch files.
    """
    files = _shards(path)
    rows, tokens = _count(files)
    if scratch is None or tokens * _TYPES["tokens"].itemsize <= in_memory:
        return _joined(list(_chunks(files)))
    stem = scratch / path.stem
    source = digest_of([[file.name, sha256_file(file)] for file in files]) if check else ""
    if not _intact(stem, source):
        _write(stem, source, files, 5 * tokens + 8 * (rows + 1))
    tokens_of, supervised_of, offsets = (files_of.flat(_part(stem, name), dtype) for name, dtype in _TYPES.items())
    return Sequences(tokens_of, supervised_of, np.asarray(offsets))


def _shards(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("part-*.parquet"))
    if not files:
        found = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise DatasetError(f"{path} holds {found}, but part-00000.parquet and so on were expected. Tokenize the data again.")
    return files


def _count(files: Sequence[Path]) -> tuple[int, int]:
    """Rows and tokens, from the footers alone; an empty list counts as one token."""
    rows, tokens = 0, 0
    for file in files:
        footer = pq.read_metadata(vault.source(file))
        rows += footer.num_rows
        for group in (footer.row_group(number) for number in range(footer.num_row_groups)):
            columns = (group.column(number) for number in range(group.num_columns))
            tokens += sum(column.num_values for column in columns if column.path_in_schema.startswith("input_ids."))
    return rows, tokens


def _chunks(files: Sequence[Path]) -> Iterator[Chunk]:
    """Tokens, marks and lengths of some rows at a time."""
    for file in files:
        with pq.ParquetFile(vault.source(file)) as source:
            for batch in source.iter_batches(batch_size=_BATCH, columns=list(_COLUMNS)):
                ids, marks = (batch.column(name) for name in _COLUMNS)
                lengths = _lengths(ids)
                if not np.array_equal(lengths, _lengths(marks)):
                    raise DatasetError(
                        f"{file}: input_ids and supervised differ in length, but each token has one mark. "
                        f"Tokenize the data again."
                    )
                flat, marked = (column.flatten().to_numpy(zero_copy_only=False) for column in (ids, marks))
                yield flat.astype(np.int32, copy=False), marked.astype(np.int8, copy=False), lengths


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    offsets: NDArray[np.int64] = lists.offsets.to_numpy().astype(np.int64)
    return np.diff(offsets)


def _joined(chunks: Sequence[Chunk]) -> Sequences:
    empty: Chunk = (np.zeros(0, np.int32), np.zeros(0, np.int8), np.zeros(1, np.int64))
    tokens, marks = (np.concatenate([empty[part], *(chunk[part] for chunk in chunks)]) for part in (0, 1))
    offsets = np.cumsum(np.concatenate([empty[2], *(chunk[2] for chunk in chunks)]), dtype=np.int64)
    return Sequences(tokens.astype(np.int32, copy=False), marks.astype(np.int8, copy=False), offsets)


def _write(stem: Path, source: str, files: Sequence[Path], needed: int) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    vault.begin(stem.parent)
    _part(stem, "json").unlink(missing_ok=True)
    for name in _TYPES:
        _part(stem, name).unlink(missing_ok=True)
    for left in stem.parent.glob(f".{stem.name}.*.new"):  # of a process that was killed
        left.unlink()
    free = shutil.disk_usage(stem.parent).free
    if free < needed:
        raise WorkspaceError(
            f"The sequences need {needed / 2**30:.1f} GiB beside the checkpoints in {stem.parent}, where "
            f"{free / 2**30:.1f} GiB are free. Make room there, or use a workspace on a larger disk."
        )
    end = 0
    paths = [_part(stem, name) for name in _TYPES]
    with vault.writing(paths[0]) as tokens, vault.writing(paths[1]) as supervised, vault.writing(paths[2]) as offsets:
        offsets.write(np.zeros(1, _TYPES["offsets"]).tobytes())
        for flat, marked, lengths in _chunks(files):
            tokens.write(flat.astype(_TYPES["tokens"], copy=False).tobytes())
            supervised.write(marked.tobytes())
            ends = end + np.cumsum(lengths)
            offsets.write(ends.astype(_TYPES["offsets"], copy=False).tobytes())
            end = int(ends[-1]) if len(ends) else end
    records = {name: [_part(stem, name).stat().st_size, sha256_file(_part(stem, name))] for name in _TYPES}
    write_text(_part(stem, "json"), json.dumps({"source": source, "files": records}))


def _intact(stem: Path, source: str) -> bool:
    """Whether the scratch files are whole and of this source; where that is "", their sizes alone count."""
    try:
        content = json.loads(_part(stem, "json").read_text(encoding="utf-8"))
        if source and content["source"] != source:
            return False
        for name in _TYPES:
            size, sha256 = content["files"][name]
            if _part(stem, name).stat().st_size != size or (source and sha256_file(_part(stem, name)) != sha256):
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def _part(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}")
