"""Rows on disk and what is read out of a conversation."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pyarrow as pa

Message = dict[str, str]
Row = dict[str, Any]
KNOWN_ROLES = frozenset(("system", "user", "assistant", "tool", "text"))
BATCH = 5_000


def schema(extra: Sequence[str] = ()) -> "pa.Schema":
    """The columns of raw rows, and string columns after them."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    columns = [("row", pa.int64()), ("file", pa.string()), ("line", pa.int64()), ("source", pa.int64())]
    return pa.schema([*columns, ("messages", pa.list_(message)), *((name, pa.string()) for name in extra)])


class RowWriter:
    """Writes rows to a Parquet file batch by batch and hashes their content as it goes.

    The hash covers source, line, messages and group of each row in order, as JSON, whatever the version of Parquet.
    """

    def __init__(self, path: Path, columns: "pa.Schema") -> None:
        import pyarrow.parquet as pq

        self.columns, self.waiting, self.rows = columns, list[Row](), 0
        self.hasher = hashlib.sha256()
        self.file = pq.ParquetWriter(path, columns, compression="zstd")

    def write(self, row: Row) -> None:
        """Add one row."""
        content = [row["source"], row["line"], row["messages"], row.get("group")]
        self.hasher.update(json.dumps(content, ensure_ascii=False, sort_keys=True).encode() + b"\n")
        self.waiting.append(row)
        self.rows += 1
        if len(self.waiting) >= BATCH:
            self._flush()

    def sha256(self) -> str:
        """The content hash of what was written."""
        return self.hasher.hexdigest()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.waiting:
            self.file.write_table(pa.Table.from_pylist(self.waiting, schema=self.columns))
            self.waiting = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self.file.close()


def read_batches(path: Path, size: int = BATCH) -> Iterator[list[Row]]:
    """The rows of a Parquet file, `size` at a time."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(batch_size=size):
        yield batch.to_pylist()


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file, one by one."""
    for batch in read_batches(path):
        yield from batch


def last_answer(messages: Sequence[Message]) -> int:
    """The index of the last assistant turn (or plain text); -1 where there is none."""
    found = [index for index, message in enumerate(messages) if message["role"] in ("assistant", "text")]
    return found[-1] if found else -1


def answer_of(messages: Sequence[Message]) -> str:
    """The content of the last answer, or all of a plain text."""
    index = last_answer(messages)
    return messages[index]["content"] if index >= 0 else ""


def prompt_of(messages: Sequence[Message]) -> str:
    """Everything before the last answer but the system's message."""
    before = messages[: max(last_answer(messages), 0)]
    return "\n".join(message["content"] for message in before if message["role"] != "system")


def whole_of(messages: Iterable[Message]) -> str:
    """All contents but the system's message."""
    return "\n".join(message["content"] for message in messages if message["role"] != "system")


def normalized(text: str) -> str:
    """Lower case with single spaces: what counts as the same content."""
    return " ".join(text.lower().split())


def why_unusable(messages: Sequence[Message]) -> str:
    """Why nothing can be learned from a row, as the ledger names it; "" where something can."""
    roles = {message["role"] for message in messages}
    if roles - KNOWN_ROLES:
        return "unknown_role"
    if not roles & {"assistant", "text"}:
        return "no_assistant_turn"
    if any(not m["content"].strip() for m in messages if m["role"] in ("assistant", "text")):
        return "empty_answer"
    if "text" not in roles and not prompt_of(messages).strip():
        return "empty_prompt"
    return ""


def place_of(row: Row) -> str:
    """Where a row stands in its source."""
    return f"{row['file']} line {row['line']}"
