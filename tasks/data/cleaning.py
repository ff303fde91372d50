"""Repairs and removals: every row is kept or stands in the quarantine with its reason."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.contracts import CleanDataset, Count, Ledger, RawDataset, digest_of
from tasks.data.dedup import find_alike
from tasks.data.repairs import REPAIRS, mend
from tasks.data.rows import (
    Message,
    Row,
    RowWriter,
    answer_of,
    normalized,
    prompt_of,
    read_rows,
    schema,
    whole_of,
    why_unusable,
)
from tasks.data.spec import CleaningSpec
from tasks.errors import DatasetError, LedgerError


def clean(raw: RawDataset, spec: CleaningSpec, rows: Path, out: Path, uri: str) -> CleanDataset:
    """Repair and drop what `spec` names; write `out`/rows.parquet and `out`/quarantine.parquet.

    Args:
        raw: what was loaded.
        spec: which repairs and removals are made.
        rows: folder that holds the raw rows.parquet.
        out: folder to write to.
        uri: where `out` will lie.

    Raises:
        DatasetError: no row is left.
    """
    table, repaired = _mended(rows / "rows.parquet", spec)
    reasons = _unusable(table)
    if spec.exact_duplicates:
        reasons |= _exact_duplicates(table, reasons)
    leaders = list(range(len(table)))
    if spec.near_duplicates:
        near, leaders = _near_duplicates(table, reasons, spec.near_duplicates)
        reasons |= near
    if len(reasons) == len(table):
        counts = ", ".join(f"{reason} {count}" for reason, count in Counter(reasons.values()).most_common())
        raise DatasetError(f"{raw.name}: cleaning left no row of {len(table)} ({counts}).")
    sha256 = _write(table, reasons, _groups(table, leaders), out)
    return CleanDataset(
        name=raw.name,
        uri=uri,
        sha256=digest_of([sha256, raw.task]),
        parent_sha256=raw.sha256,
        task=raw.task,
        ledger=_ledger(raw.rows, len(table), reasons, repaired),
        quarantine_uri=f"{uri}/quarantine.parquet",
    )


def _mended(path: Path, spec: CleaningSpec) -> tuple[list[Row], Counter[str]]:
    """Every row after its repairs, and how many rows each repair changed."""
    names = [name for name in REPAIRS if getattr(spec, name)]
    repaired: Counter[str] = Counter()
    table = []
    for row in read_rows(path):
        row["messages"], made = mend_messages(row["messages"], names)
        repaired.update(made)
        table.append(row)
    return table, repaired


def mend_messages(messages: Sequence[Message], names: Sequence[str]) -> tuple[list[Message], set[str]]:
    """The messages after the named repairs, and the names of those that changed one."""
    made: set[str] = set()
    mended = []
    for message in messages:
        content, changes = mend(message["content"], names)
        made.update(changes)
        mended.append({"role": message["role"], "content": content})
    return mended, made


def _unusable(table: Sequence[Row]) -> dict[int, str]:
    found = {index: why_unusable(row["messages"]) for index, row in enumerate(table)}
    return {index: reason for index, reason in found.items() if reason}


def content_key(messages: Sequence[Message]) -> bytes:
    """Equal for rows of equal roles and contents."""
    text = json.dumps([[message["role"], message["content"]] for message in messages])
    return hashlib.sha256(text.encode()).digest()


def _exact_duplicates(table: Sequence[Row], gone: Mapping[int, str]) -> dict[int, str]:
    seen: set[bytes] = set()
    found = {}
    for index, row in enumerate(table):
        if index in gone:
            continue
        key = content_key(row["messages"])
        if key in seen:
            found[index] = "exact_duplicate"
        seen.add(key)
    return found


def _near_duplicates(table: Sequence[Row], gone: Mapping[int, str], threshold: float) -> tuple[dict[int, str], list[int]]:
    """Rows that repeat an earlier one, and for every row the first row of its group."""
    kept = [index for index in range(len(table)) if index not in gone]
    conversations = [table[index]["messages"] for index in kept]
    alike = find_alike([whole_of(m) for m in conversations], [answer_of(m) for m in conversations], threshold)
    leaders = list(range(len(table)))
    for place, index in enumerate(kept):
        leaders[index] = kept[alike.leader[place]]
    return {kept[row]: "near_duplicate" for row in alike.duplicate_of}, leaders


def _groups(table: Sequence[Row], leaders: Sequence[int]) -> list[str]:
    """One name for rows that must share a split: equal prompts, and clusters of rows that resemble each other.

    A name is the hash of the first row's prompt, so that rows added later change no earlier name.
    """
    parent = list(range(len(table)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    keys = [normalized(prompt_of(row["messages"]) or whole_of(row["messages"])) for row in table]
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        for other in (first.setdefault(key, index), leaders[index]):
            one, two = sorted((find(index), find(other)))
            parent[two] = one
    return [hashlib.sha256(keys[find(index)].encode()).hexdigest()[:16] for index in range(len(table))]


def _write(table: Sequence[Row], reasons: Mapping[int, str], groups: Sequence[str], out: Path) -> str:
    with (
        RowWriter(out / "rows.parquet", schema(("group",))) as kept,
        RowWriter(out / "quarantine.parquet", schema(("reason",))) as quarantine,
    ):
        for index, row in enumerate(table):
            if index in reasons:
                quarantine.write({**row, "reason": reasons[index]})
            else:
                kept.write({**row, "group": groups[index]})
    return kept.sha256()


def _ledger(expected: int, found: int, reasons: Mapping[int, str], repaired: Counter[str]) -> Ledger:
    if expected != found:
        raise LedgerError(f"{expected} rows were loaded, but {found} came to cleaning.")
    dropped = Counter(reasons.values())
    return Ledger(
        rows_in=expected,
        kept=found - len(reasons),
        dropped=tuple(Count(reason=reason, rows=rows) for reason, rows in sorted(dropped.items())),
        repaired=tuple(Count(reason=name, rows=repaired[name]) for name in REPAIRS if repaired[name]),
    )
