"""What was counted while a shard was tokenized, and the sums over shards."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.contracts import Sha256, Value, digest_of

if TYPE_CHECKING:
    import pyarrow as pa

_PLACES = 5
_NUMBERS = {"row": "<i8", "input_ids": "<i4", "supervised": "i1"}


class Dropped(Value):
    """How many rows one reason dropped, and where some of them stand."""

    reason: str
    rows: int = Field(ge=0)
    places: tuple[str, ...] = ()


class ShardTokens(Value):
    """What one shard became; `rows_in` is `rows` and what was dropped.

    Args:
        rows_in: rows read.
        rows: rows that gave at least one sequence.
        sequences: more than `rows` where long ones were divided.
        lengths: (tokens, sequences) of each length.
        long_rows: rows longer than the limit.
        truncated_rows: those of them that lost tokens.
        split_rows: those of them that became several sequences.
        repeated_tokens: tokens that stand in more than one sequence of a row.
        too_long: some of the long rows, with their tokens.
        refusal: what the template said of the first row that it refused.
        notes: how the template was rendered, where that is worth saying.
        sha256: over row, tokens, marks, prompts, references and groups, whatever the version of Parquet.
    """

    rows_in: int = Field(ge=0)
    rows: int = Field(ge=0)
    sequences: int = Field(ge=0)
    tokens: int = Field(ge=0)
    supervised: int = Field(ge=0)
    lengths: tuple[tuple[int, int], ...] = ()
    long_rows: int = Field(default=0, ge=0)
    truncated_rows: int = Field(default=0, ge=0)
    truncated_tokens: int = Field(default=0, ge=0)
    split_rows: int = Field(default=0, ge=0)
    repeated_tokens: int = Field(default=0, ge=0)
    dropped: tuple[Dropped, ...] = ()
    too_long: tuple[str, ...] = ()
    refusal: str = ""
    notes: tuple[str, ...] = ()
    largest_id: int = 0
    sha256: Sha256

    @property
    def lost_rows(self) -> int:
        """Rows that are neither in a sequence nor dropped by a reason: always 0, or the ledger does not balance."""
        return self.rows_in - self.rows - sum(one.rows for one in self.dropped)


@dataclass
class Counting:
    """The facts of a shard while it is written."""

    counts: dict[str, int] = field(default_factory=dict)
    by_length: dict[int, int] = field(default_factory=dict)
    dropped: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    too_long: list[str] = field(default_factory=list)
    refusal: str = ""
    largest_id: int = 0
    hashers: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, number: int = 1) -> None:
        """Count something."""
        self.counts[name] = self.counts.get(name, 0) + number

    def drop(self, reason: str, place: str) -> None:
        """Count a dropped row and remember where the first ones stand."""
        rows, places = self.dropped.get(reason, (0, []))
        self.dropped[reason] = rows + 1, places if len(places) >= _PLACES else [*places, place]

    def long(self, place: str, tokens: int) -> None:
        """Count a row longer than the limit."""
        self.add("long_rows")
        if len(self.too_long) < _PLACES:
            self.too_long.append(f"{place} ({tokens} tokens)")

    def written(self, table: "pa.RecordBatch") -> None:
        """Count sequences and add their content to the hash, column by column."""
        ids, marks = (table.column(name) for name in ("input_ids", "supervised"))
        lengths = np.diff(ids.offsets.to_numpy())
        for length, count in zip(*(part.tolist() for part in np.unique(lengths, return_counts=True)), strict=True):
            self.by_length[length] = self.by_length.get(length, 0) + count
        flat, marked = ids.flatten().to_numpy(), marks.flatten().to_numpy()
        self.add("sequences", len(lengths))
        self.add("tokens", len(flat))
        self.add("supervised", int(marked.sum(dtype=np.int64)))
        self.largest_id = max(self.largest_id, int(flat.max(initial=0)))
        self._hash("lengths", lengths.astype("<i8").tobytes())
        for name, values in (("row", table.column("row").to_numpy()), ("input_ids", flat), ("supervised", marked)):
            self._hash(name, values.astype(_NUMBERS[name], copy=False).tobytes())
        for name in ("prompt", "reference", "group"):
            texts = [text.encode() for text in table.column(name).to_pylist()]
            self._hash(name, b"".join(texts))
            self._hash(f"{name} lengths", np.fromiter(map(len, texts), "<i8", len(texts)).tobytes())

    def value(self, rows_in: int, notes: Iterable[str]) -> ShardTokens:
        """All that was counted."""
        return ShardTokens(
            rows_in=rows_in,
            **{name: self.counts.get(name, 0) for name in ("rows", "sequences", "tokens", "supervised", "long_rows")},
            **{name: self.counts.get(name, 0) for name in ("truncated_rows", "truncated_tokens", "split_rows")},
            repeated_tokens=self.counts.get("repeated_tokens", 0),
            lengths=tuple(sorted(self.by_length.items())),
            dropped=tuple(
                Dropped(reason=reason, rows=rows, places=tuple(places))
                for reason, (rows, places) in sorted(self.dropped.items())
            ),
            too_long=tuple(self.too_long),
            refusal=self.refusal,
            notes=tuple(sorted(notes)),
            largest_id=self.largest_id,
            sha256=digest_of({name: hasher.hexdigest() for name, hasher in self.hashers.items()}),
        )

    def _hash(self, name: str, content: bytes) -> None:
        self.hashers.setdefault(name, hashlib.sha256()).update(content)


def summed(shards: Sequence[ShardTokens]) -> ShardTokens:
    """The facts of several shards as those of one; its hash is over theirs in order."""
    names = ("rows_in", "rows", "sequences", "tokens", "supervised", "long_rows", "truncated_rows", "truncated_tokens")
    numbers = {name: sum(getattr(one, name) for one in shards) for name in (*names, "split_rows", "repeated_tokens")}
    lengths: dict[int, int] = {}
    for length, count in (pair for one in shards for pair in one.lengths):
        lengths[length] = lengths.get(length, 0) + count
    reasons = sorted({part.reason for one in shards for part in one.dropped})
    parts = {reason: [part for one in shards for part in one.dropped if part.reason == reason] for reason in reasons}
    return ShardTokens(
        **numbers,
        lengths=tuple(sorted(lengths.items())),
        dropped=tuple(
            Dropped(
                reason=reason,
                rows=sum(part.rows for part in found),
                places=tuple(place for part in found for place in part.places)[:_PLACES],
            )
            for reason, found in parts.items()
        ),
        too_long=tuple(place for one in shards for place in one.too_long)[:_PLACES],
        refusal=next((one.refusal for one in shards if one.refusal), ""),
        notes=tuple(sorted({note for one in shards for note in one.notes})),
        largest_id=max((one.largest_id for one in shards), default=0),
        sha256=digest_of([one.sha256 for one in shards]),
    )


def all_lengths(facts: ShardTokens, most: int = 1_000_000) -> NDArray[np.int64]:
    """The lengths of the sequences, shortest first; of more than `most` about so many in the same shares."""
    pairs = np.asarray(facts.lengths, np.int64).reshape(-1, 2)
    counts = pairs[:, 1]
    if facts.sequences > most:
        counts = np.ceil(counts * (most / facts.sequences)).astype(np.int64)
    return np.repeat(pairs[:, 0], counts)
