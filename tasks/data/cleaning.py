"""Repairs and removals: every row is kept or stands in the quarantine with its reason.

Shard by shard: repairs, then what rows share (equal contents, near-duplicates, prompts), then kept and dropped apart.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import CleanDataset, Count, Ledger, RawDataset, Shard, digest_of
from tasks.data.dedup import find_alike
from tasks.data.keys import Pairs, looked_up, pairs_of, repeats, roots, write_keys
from tasks.data.mending import REPAIRS, mend
from tasks.data.repairs import ENOUGH_LITERALS
from tasks.data.rows import KNOWN_ROLES, normalized
from tasks.data.running import After, Facts, Run, Told, each, in_turn, silent
from tasks.data.shards import Turns, digest, read_shard, write_shard
from tasks.data.spec import CleaningSpec
from tasks.encryption import arrays
from tasks.errors import DatasetError, LedgerError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

Reasons = NDArray[np.object_]


def clean(
    raw: RawDataset, spec: CleaningSpec, rows: Path, out: Path, uri: str, run: Run = in_turn, progress: Told = silent
) -> CleanDataset:
    """Repair and drop what `spec` names; write the shards of `out`/rows and `out`/quarantine.

    Args:
        raw: what was loaded.
        spec: which repairs and removals are made.
        rows: folder that holds the raw rows/.
        out: folder to write to; what an earlier process finished there is not done again.
        uri: where `out` will lie.
        run: in one process or in several.
        progress: told shards done and shards in all, over all passes.

    Raises:
        DatasetError: no row is left.
    """
    work = out / "work"
    starts = [0, *accumulate(shard.rows for shard in raw.shards)]
    if starts[-1] != raw.rows:
        raise LedgerError(f"{raw.rows} rows were loaded, but {starts[-1]} came to cleaning.")
    escaped = escaped_sources(raw)
    jobs = [
        CleanJob(shard.name, start, rows / "rows" / shard.name, work, out, spec, escaped)
        for shard, start in zip(raw.shards, starts, strict=False)
    ]
    tell = _Passes(progress, 3 if spec.near_duplicates else 2)
    mended = each(run, mend_shard, jobs, work / "mended-marks", tell.next())
    _share(jobs, spec, run, tell)
    found = each(run, divide_shard, [DivideJob(job) for job in jobs], work / "divided-marks", tell.next())
    dropped = sum((Counter(facts["dropped"]) for facts in found), Counter[str]())
    repaired = sum((Counter(facts["repaired"]) for facts in mended), Counter[str]())
    if dropped.total() == raw.rows:
        counts = ", ".join(f"{reason} {count}" for reason, count in dropped.most_common())
        raise DatasetError(f"{raw.name}: cleaning left no row of {raw.rows} ({counts}).")
    shards = tuple(
        Shard(name=job.name, rows=facts["kept"], sha256=facts["sha256"]) for job, facts in zip(jobs, found, strict=True)
    )
    shutil.rmtree(work)
    return CleanDataset(
        name=raw.name,
        uri=uri,
        sha256=digest_of([[shard.sha256 for shard in shards], raw.task]),
        parent_sha256=raw.sha256,
        task=raw.task,
        ledger=_ledger(raw.rows, sum(shard.rows for shard in shards), dropped, repaired),
        quarantine_uri=f"{uri}/quarantine",
        shards=shards,
    )


def escaped_sources(raw: RawDataset) -> frozenset[int]:
    """The sources whose line breaks were written as backslash and n."""
    return frozenset(number for number, file in enumerate(raw.files) if file.escaped >= ENOUGH_LITERALS)


class _Passes:
    """The progress of several passes over all shards as that of one."""

    def __init__(self, told: Told, passes: int) -> None:
        self.told, self.passes, self.at = told, passes, -1

    def next(self) -> Told:
        self.at += 1
        number = self.at
        return lambda done, total: self.told(number * total + done, self.passes * total)


@dataclass(frozen=True)
class CleanJob:
    """The mending of one shard.

    Args:
        name: of the shard's file.
        start: the number of its first row.
        path: the raw shard.
        work: folder for what is needed until the end.
        out: folder of the result.
        spec: which repairs are made.
        escaped: the sources whose line breaks were written as backslash and n.
    """

    name: str
    start: int
    path: Path
    work: Path
    out: Path
    spec: CleaningSpec
    escaped: frozenset[int]

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The mended shard, and the keys of its rows and of their prompts."""
        return self.mended, self.contents, self.prompts

    @property
    def mended(self) -> Path:
        """The rows after their repairs, with the reason for those nothing can be learned from."""
        return self.work / "mended" / self.name

    @property
    def contents(self) -> Path:
        """The keys of the usable rows' contents."""
        return self.work / "contents" / f"{self.name}.npy"

    @property
    def prompts(self) -> Path:
        """The keys of all rows' prompts."""
        return self.work / "prompts" / f"{self.name}.npy"


@dataclass(frozen=True)
class TextJob(After[CleanJob]):
    """What near-duplicates are looked for in, of one shard."""

    @property
    def path(self) -> Path:
        """The texts."""
        return self.of.work / "texts" / self.name

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The texts."""
        return (self.path,)


@dataclass(frozen=True)
class DivideJob(After[CleanJob]):
    """The division of one shard into kept and dropped rows."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Kept and dropped rows."""
        return self.of.out / "rows" / self.name, self.of.out / "quarantine" / self.name


def mend_shard(job: CleanJob) -> Facts:
    """Repair the rows of a shard, and keep the keys by which they are compared with all others."""
    import pyarrow as pa

    table = read_shard(job.path)
    turns = Turns.of(table)
    found = mend(turns, job.spec, table.column("source").to_numpy(), job.escaped)
    mended = found.turns
    reasons = unusable(mended)
    numbers = np.arange(job.start, job.start + mended.count, dtype=np.int64)
    usable = np.array([not reason for reason in reasons], dtype=np.bool_)
    keys = content_keys(mended)
    write_keys(job.contents, [keys[index] for index in np.flatnonzero(usable)], numbers[usable])
    write_keys(job.prompts, prompt_keys(mended), numbers)
    columns = {name: table.column(name) for name in ("file", "line", "source")}
    write_shard(
        job.mended,
        pa.table({"row": numbers, **columns, "messages": mended.arrow(), "reason": pa.array(reasons.tolist(), pa.string())}),
    )
    made = {name: int(turns.any_of(mask).sum()) for name, mask in found.changed.items()}
    return {"repaired": {name: count for name, count in made.items() if count}}


def unusable(turns: Turns) -> Reasons:
    """Why nothing can be learned from a row, as the ledger names it; "" where something can."""
    empty = np.asarray((turns.content.str.strip_chars() == "").to_numpy(), dtype=np.bool_)
    text = turns.any_of(np.asarray((turns.role == "text").to_numpy(), dtype=np.bool_))
    learned = turns.any_of(turns.is_answer & turns.learn.to_numpy())
    silent_prompt = np.asarray((turns.prompts.str.strip_chars() == "").to_numpy(), dtype=np.bool_)
    reasons: Reasons = np.full(turns.count, "", dtype=object)
    found = {
        "empty_prompt": silent_prompt & ~text,
        "no_learned_turn": ~learned,
        "empty_answer": turns.any_of(empty & turns.is_answer),
        "no_assistant_turn": turns.last_answer < 0,
        "unknown_role": turns.any_of(~np.asarray(turns.role.is_in(sorted(KNOWN_ROLES)).to_numpy(), dtype=np.bool_)),
    }
    for reason, rows in found.items():  # of several reasons the last one counts
        reasons[rows] = reason
    return reasons


def content_keys(turns: Turns) -> list[bytes]:
    """Of each row 16 bytes that are equal for rows of equal roles and contents."""
    lengths = turns.content.str.len_bytes().cast(str)
    parts = turns.role + "\0" + lengths + "\0" + turns.content
    every = np.ones(len(turns.row), dtype=np.bool_)
    return digests(turns.with_content(parts).joined(every))


def prompt_keys(turns: Turns) -> list[bytes]:
    """Of each row 16 bytes that are equal for rows with the same prompt, or of plain text the same text."""
    prompts = turns.prompts
    texts = prompts.zip_with(prompts != "", turns.wholes) if len(prompts) else prompts
    return normalized_keys(texts)


def normalized_keys(texts: "pl.Series") -> list[bytes]:
    """Of each text 16 bytes that are equal for texts that differ in case and blanks alone."""
    return [hashlib.sha256(normalized(text).encode()).digest()[:16] for text in texts.to_list()]


def digests(texts: "pl.Series") -> list[bytes]:
    """The first 16 bytes of the sha256 of each text."""
    import pyarrow as pa

    if not len(texts):
        return []
    column = texts.to_arrow().cast(pa.large_string())
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1].tolist()
    octets = memoryview(data) if data is not None else memoryview(b"")
    return [hashlib.sha256(octets[start:end]).digest()[:16] for start, end in pairwise(places)]


def _share(jobs: Sequence[CleanJob], spec: CleaningSpec, run: Run, tell: _Passes) -> None:
    """Find what rows share: equal contents, near-duplicates, and the first row of all that must stay together."""
    work = jobs[0].work
    equal = repeats([job.contents for job in jobs]) if spec.exact_duplicates else np.empty((0, 2), dtype=np.int64)
    arrays.save(work / "equal.npy", equal)
    edges = [repeats([job.prompts for job in jobs])]
    near = np.empty((0, 2), dtype=np.int64)
    if spec.near_duplicates:
        texts = [TextJob(job) for job in jobs]
        each(run, write_texts, texts, work / "texts-marks", tell.next())
        alike = read_shard(find_alike([job.path for job in texts], work / "near", spec.near_duplicates, run).path)
        near = _pairs(alike, "duplicate_of")
        edges.append(_pairs(alike, "group"))
    arrays.save(work / "near.npy", near)
    arrays.save(work / "roots.npy", roots(np.concatenate(edges)))
    _gather_prompts(jobs)


def _pairs(table: "pa.Table", name: str) -> Pairs:
    """The rows that have a partner in a column, and these."""
    some = table.filter(table.column(name).is_valid())
    return np.stack([some.column("row").to_numpy(), some.column(name).to_numpy()], axis=1).astype(np.int64)


def _gather_prompts(jobs: Sequence[CleanJob]) -> None:
    """The first eight bytes of every row's prompt key, by row, in one file: a group has the name of its first row's."""
    total = jobs[-1].start + len(arrays.opened(jobs[-1].prompts))
    names = (arrays.load(job.prompts)["high"] for job in jobs)
    arrays.save_parts(jobs[0].work / "names.npy", names, "<u8", total)


def write_texts(job: TextJob) -> Facts:
    """What the rows of a shard say that are usable and repeat no other exactly."""
    import pyarrow as pa

    table = read_shard(job.of.mended)
    turns, numbers = Turns.of(table), table.column("row").to_numpy()
    equal = looked_up(pairs_of(job.of.work / "equal.npy", numbers), numbers, np.full(len(numbers), -1))
    kept = np.array([not reason for reason in table.column("reason").to_pylist()], dtype=np.bool_) & (equal < 0)
    texts = {name: series.filter(kept).to_arrow() for name, series in (("whole", turns.wholes), ("answer", turns.answers))}
    write_shard(job.path, pa.table({"row": numbers[kept], **texts}))
    return {"rows": int(kept.sum())}


def divide_shard(job: DivideJob) -> Facts:
    """Write the rows that are kept, with their groups, and those that are dropped, with their reasons."""
    import pyarrow as pa

    work = job.of.work
    table = read_shard(job.of.mended)
    numbers = table.column("row").to_numpy()
    nothing = np.full(len(numbers), -1, dtype=np.int64)
    reasons = np.array(table.column("reason").to_pylist(), dtype=object)
    for name, reason in (("equal", "exact_duplicate"), ("near", "near_duplicate")):
        repeated = looked_up(pairs_of(work / f"{name}.npy", numbers), numbers, nothing) >= 0
        reasons[repeated & (reasons == "")] = reason
    first = looked_up(pairs_of(work / "roots.npy", numbers), numbers, numbers)
    names = arrays.opened(work / "names.npy")[first]
    groups = [value.to_bytes(8, "little").hex() for value in names.tolist()]
    kept = reasons == ""
    rows = table.drop_columns(["reason"])
    keeping = rows.append_column("group", pa.array(groups, pa.string())).filter(pa.array(kept))
    write_shard(job.outputs[0], keeping)
    gone = rows.append_column("reason", pa.array(reasons.tolist(), pa.string())).filter(pa.array(~kept))
    write_shard(job.outputs[1], gone)
    return {
        "kept": int(kept.sum()),
        "dropped": dict(Counter(reasons[~kept].tolist())),
        "sha256": digest(keeping.drop_columns(["file"])),
    }


def _ledger(expected: int, kept: int, dropped: Mapping[str, int], repaired: Mapping[str, int]) -> Ledger:
    return Ledger(
        rows_in=expected,
        kept=kept,
        dropped=tuple(Count(reason=reason, rows=rows) for reason, rows in sorted(dropped.items())),
        repaired=tuple(Count(reason=name, rows=repaired[name]) for name in REPAIRS if repaired.get(name)),
    )
