"""Rows on disk: folders of Parquet shards, and the messages of a shard as columns.

A shard holds at most 50,000 rows or 64 MiB of text, so that what works on one needs little memory however large the set is.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.encryption import vault

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

SHARD_ROWS = 50_000
SHARD_BYTES = 64 << 20
Mask = NDArray[np.bool_]
_ANSWERS = ("assistant", "text")


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, in the order of their rows."""
    return sorted(folder.glob("part-*.parquet"))


def shard_name(part: int, number: int = 0) -> str:
    """The file name of a shard: its place in the input, then its place there."""
    return f"part-{part:05d}-{number:05d}.parquet"


def message_type() -> "pa.DataType":
    """A message: who speaks, what is said, and whether an answer is learned."""
    import pyarrow as pa

    return pa.struct([("role", pa.string()), ("content", pa.string()), ("learn", pa.bool_())])


def raw_schema() -> "pa.Schema":
    """The columns of raw rows."""
    import pyarrow as pa

    columns = [("file", pa.string()), ("line", pa.int64()), ("source", pa.int64())]
    return pa.schema([*columns, ("messages", pa.list_(message_type()))])


def write_shard(path: Path, table: "pa.Table") -> None:
    """Write a shard so that it is there whole or not at all."""
    import pyarrow.parquet as pq

    with vault.writing(path) as file:
        pq.write_table(table, file, compression="zstd", compression_level=1)


def read_shard(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """A whole shard, each column in one piece."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(vault.source(path)).read(columns=columns).combine_chunks()


def read_rows(folder: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a folder of shards one by one, as dicts: for reports and tests, not for speed."""
    for path in shard_paths(folder):
        yield from read_shard(path, columns).to_pylist()


def digest(table: "pa.Table") -> str:
    """sha256 of a table's content, whatever the versions of Parquet and Arrow: lengths and values, column by column."""
    hasher = hashlib.sha256()
    for name in table.column_names:
        hasher.update(name.encode() + b"\0")
        _add(hasher, table.column(name).combine_chunks())
    return hasher.hexdigest()


def _add(hasher: Any, array: "pa.Array") -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_struct(kind):
        for field in kind:
            _add(hasher, pc.struct_field(array, field.name))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        hasher.update(_int64(pc.list_value_length(array)))
        _add(hasher, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        filled = pc.fill_null(array, "\0")
        hasher.update(_int64(pc.binary_length(filled)))
        hasher.update(_bytes_of(filled))
    else:
        hasher.update(_int64(array))


def _int64(array: "pa.Array") -> bytes:
    import pyarrow as pa
    import pyarrow.compute as pc

    return bytes(pc.fill_null(array.cast(pa.int64()), -1).to_numpy(zero_copy_only=False).astype("<i8").tobytes())


def _bytes_of(array: "pa.Array") -> bytes:
    """The UTF-8 of all strings, one after the other."""
    import pyarrow as pa

    whole = pa.concat_arrays([array.cast(pa.large_string())])
    data = whole.buffers()[2]
    if data is None:
        return b""
    offsets = np.frombuffer(whole.buffers()[1], dtype=np.int64)[whole.offset : whole.offset + len(whole) + 1]
    return memoryview(data)[offsets[0] : offsets[-1]].tobytes()


@dataclass(frozen=True)
class Turns:
    """All messages of a shard, one after the other.

    Args:
        count: rows of the shard.
        row: of each message, the index of its row in the shard; ascending.
        role: who speaks.
        content: what is said.
        learn: whether an answer is learned; true for all but answers that the data say are context.
    """

    count: int
    row: NDArray[np.int64]
    role: "pl.Series"
    content: "pl.Series"
    learn: "pl.Series"

    @classmethod
    def of(cls, table: "pa.Table") -> Self:
        """The messages of a table with a column `messages`."""
        import polars as pl
        import pyarrow.compute as pc

        messages = table.column("messages").combine_chunks()
        lengths = pc.list_value_length(messages).to_numpy(zero_copy_only=False)
        flat = messages.flatten()
        role, content, learn = (pl.Series(name, pc.struct_field(flat, name)) for name in ("role", "content", "learn"))
        rows = np.repeat(np.arange(len(messages), dtype=np.int64), lengths)
        return cls(len(messages), rows, role.cast(pl.String), content.cast(pl.String), learn.fill_null(value=True))

    def with_content(self, content: "pl.Series") -> "Turns":
        """The same messages with other contents."""
        return Turns(self.count, self.row, self.role, content, self.learn)

    def arrow(self) -> "pa.Array":
        """The column `messages`."""
        import pyarrow as pa

        offsets = np.zeros(self.count + 1, dtype=np.int32)
        np.cumsum(np.bincount(self.row, minlength=self.count), out=offsets[1:])
        columns = [self.role.to_arrow().cast(pa.string()), self.content.to_arrow().cast(pa.string()), self.learn.to_arrow()]
        flat = pa.StructArray.from_arrays(columns, names=["role", "content", "learn"])
        return pa.ListArray.from_arrays(pa.array(offsets), flat)

    @cached_property
    def is_answer(self) -> Mask:
        """Which messages are answers (or plain text)."""
        return np.asarray(self.role.is_in(_ANSWERS).to_numpy(), dtype=np.bool_)

    @cached_property
    def spoken(self) -> Mask:
        """Which messages are not the system's."""
        return np.asarray((self.role != "system").to_numpy(), dtype=np.bool_)

    @cached_property
    def last_answer(self) -> NDArray[np.int64]:
        """Of each row, the index of its last answer among all messages; -1 where it has none."""
        last = np.full(self.count, -1, dtype=np.int64)
        found = np.flatnonzero(self.is_answer)
        last[self.row[found]] = found  # of equal rows the last one stays
        return last

    @cached_property
    def answers(self) -> "pl.Series":
        """Of each row the last answer; "" where it has none."""
        import polars as pl

        there = self.last_answer >= 0
        picked = self.content.gather(self.last_answer[there])
        frame = pl.DataFrame({"row": np.flatnonzero(there), "answer": picked})
        return self._by_row(frame, "answer")

    @cached_property
    def prompts(self) -> "pl.Series":
        """Of each row what stands before its last answer but for the system's message, a line for each."""
        before = np.arange(len(self.row)) < self.last_answer[self.row] if len(self.row) else np.zeros(0, dtype=np.bool_)
        return self.joined(before & self.spoken)

    @cached_property
    def wholes(self) -> "pl.Series":
        """Of each row all that is said but for the system's message, a line for each."""
        return self.joined(self.spoken)

    def joined(self, mask: Mask) -> "pl.Series":
        """Of each row the contents of its messages in `mask`, a line for each; "" where there is none."""
        import polars as pl

        frame = pl.DataFrame({"row": self.row[mask], "text": self.content.filter(pl.Series(mask))})
        grouped = frame.group_by("row", maintain_order=True).agg(pl.col("text").str.join("\n"))
        return self._by_row(grouped, "text")

    def any_of(self, mask: Mask) -> Mask:
        """Of each row whether one of its messages is in `mask`."""
        found = np.zeros(self.count, dtype=np.bool_)
        found[self.row[mask]] = True
        return found

    def count_of(self, mask: Mask) -> NDArray[np.int64]:
        """Of each row how many of its messages are in `mask`."""
        return np.bincount(self.row[mask], minlength=self.count).astype(np.int64)

    def _by_row(self, frame: "pl.DataFrame", name: str) -> "pl.Series":
        import polars as pl

        every = pl.DataFrame({"row": np.arange(self.count, dtype=np.int64)})
        found = every.join(frame, on="row", how="left", maintain_order="left")
        return found[name].fill_null("")
