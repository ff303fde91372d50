"""Train, validation and test rows: a row goes where the hash of its group sends it, so added rows move no other.

Rows that all the same share text with held-out rows are left out of what is learned, or stop the run.
"""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import CleanDataset, Count, DatasetSplits, Shard, SplitPart, digest_of
from tasks.data import leakage
from tasks.data.cleaning import normalized_keys
from tasks.data.grams import SPAN
from tasks.data.keys import distinct, looked_up, pairs_of, repeats, write_keys
from tasks.data.leakage import Leaks
from tasks.data.places import NAMES, Name, assign, far_off, place, position
from tasks.data.running import After, Facts, Run, Told, each, in_turn, silent
from tasks.data.shards import Turns, digest, read_shard, write_shard
from tasks.data.spec import SplittingSpec
from tasks.encryption import arrays
from tasks.errors import DatasetError, LeakageError, LedgerError

if TYPE_CHECKING:
    import pyarrow as pa

_EXAMPLES = 5
_FEW_GROUPS = 100_000  # so many are looked at one by one; of more, chance leaves no split empty


def split(
    clean: CleanDataset,
    spec: SplittingSpec,
    weights: Sequence[float],
    rows: Path,
    out: Path,
    uri: str,
    seed: int,
    run: Run = in_turn,
    progress: Told = silent,
) -> DatasetSplits:
    """Write the shards of `out`/train, validation and test, and of `out`/quarantine what shares text with held-out rows.

    Args:
        clean: what cleaning kept.
        spec: the shares asked for, and what happens to rows that share text with held-out rows.
        weights: one a source file, in the order of `RawDataset.files`; they apply to training rows alone.
        rows: folder that holds the clean rows/.
        out: folder to write to; what an earlier process finished there is not done again.
        uri: where `out` will lie.
        seed: another seed is another division.
        run: in one process or in several.
        progress: told shards done and shards in all, while the splits are written.

    Raises:
        DatasetError: the rows cannot be divided.
        LeakageError: rows of two splits share text and `spec` says to stop; or they do all the same, which is a defect.
        LedgerError: rows were lost, which is a defect.
    """
    if spec.validation + spec.test >= 1:
        raise DatasetError(
            f"data.splitting: validation {spec.validation} and test {spec.test} leave nothing to train on. Lower one."
        )
    work = out / "work"
    keys = [KeyJob(shard.name, rows / "rows" / shard.name, work) for shard in clean.shards]
    each(run, write_shard_keys, keys, work / "key-marks")
    groups, largest = distinct([job.groups for job in keys])
    moved, reasons = _moved(keys, groups, spec, seed)
    jobs = [SplitJob(job, out, spec, tuple(weights), seed, moved) for job in keys]
    placed = each(run, place_shard, [PlaceJob(job) for job in jobs], work / "place-marks")
    sizes = {name: sum(facts[name] for facts in placed) for name in NAMES}
    reasons += far_off(sizes, sum(sizes.values()), largest, spec)
    leaks, told = _leaks(keys, jobs, spec, run)
    found = each(run, split_shard, jobs, work / "split-marks", progress)
    parts = {name: _part(name, keys, found, uri) for name in NAMES}
    dropped = Counter[str]()
    for facts in found:
        dropped.update(facts["dropped"])
    repeated, left_out = (sum(facts[name] for facts in found) for name in ("repeated", "left_out"))
    _demand_rows(parts, dropped, spec)
    _demand_balance(clean, parts, dropped.total() - repeated + left_out)
    refuse_leaks(keys, jobs)
    if spec.leakage != "off":
        _refuse_shared_text(keys, jobs, leaks, run)
    shutil.rmtree(work)
    return DatasetSplits(
        name=clean.name,
        sha256=digest_of([clean.task, *(parts[name].sha256 for name in NAMES)]),
        parent_sha256=clean.sha256,
        task=clean.task,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        groups=groups,
        repeated=repeated,
        left_out=left_out,
        dropped=tuple(Count(reason=reason, rows=count) for reason, count in sorted(dropped.items())),
        quarantine_uri=f"{uri}/quarantine" if dropped else "",
        reasons=(*reasons, *told),
    )


def _demand_rows(parts: Mapping[Name, SplitPart], dropped: Mapping[str, int], spec: SplittingSpec) -> None:
    """Stop where a split that is needed was left without a row."""
    gone = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items()))
    if not parts["train"].rows and not dropped:
        raise DatasetError("The weights of the sources leave out every training row. Raise a weight in data.source.")
    empty = [name for name in ("train", "validation") if not parts[name].rows and (name == "train" or spec.validation)]
    if empty and dropped:
        raise DatasetError(
            f"No row is left for {' and '.join(empty)}: those there were share {SPAN} words in a row with held-out rows "
            f"({gone}). Add rows that differ, or set data.splitting.leakage: off."
        )


def _demand_balance(clean: CleanDataset, parts: Mapping[Name, SplitPart], elsewhere: int) -> None:
    rows = sum(part.rows for part in parts.values())
    if rows + elsewhere != clean.ledger.kept:
        raise LedgerError(
            f"{clean.ledger.kept} rows came to be divided, but {rows} stand in the splits and {elsewhere} were dropped or left "
            f"out (negative: repeated)."
        )


def _part(name: Name, keys: Sequence["KeyJob"], found: Sequence[Facts], uri: str) -> SplitPart:
    shards = tuple(
        Shard(name=job.name, rows=facts["written"][name], sha256=facts["sha256"][name])
        for job, facts in zip(keys, found, strict=True)
        if facts["written"][name]
    )
    rows = sum(shard.rows for shard in shards)
    return SplitPart(uri=f"{uri}/{name}", sha256=digest_of([shard.sha256 for shard in shards]), rows=rows, shards=shards)


@dataclass(frozen=True)
class KeyJob:
    """The keys of a shard's groups and contents."""

    name: str
    path: Path
    work: Path

    @property
    def outputs(self) -> tuple[Path, ...]:
        """Keys by group, and by content."""
        return self.groups, self.contents

    @property
    def groups(self) -> Path:
        """The groups of the rows."""
        return self.work / "groups" / f"{self.name}.npy"

    @property
    def contents(self) -> Path:
        """What the rows say, in lower case and single spaces."""
        return self.work / "contents" / f"{self.name}.npy"


@dataclass(frozen=True)
class SplitJob(After[KeyJob]):
    """The division of one shard.

    Args:
        of: the shard and its keys.
        out: folder of the result.
        spec: the shares.
        weights: one a source.
        seed: of the division.
        moved: groups that go elsewhere than their hash says.
    """

    out: Path
    spec: SplittingSpec
    weights: tuple[float, ...]
    seed: int
    moved: Mapping[str, Name]

    @property
    def outputs(self) -> list[Path]:
        """Those of the three shards that have rows, and the dropped rows where there are any."""
        return [path for path in (*map(self.path, NAMES), self.quarantine) if path.exists()]

    def path(self, split_name: Name) -> Path:
        """The shard of one split."""
        return self.out / split_name / self.name

    @property
    def quarantine(self) -> Path:
        """The rows that were dropped."""
        return self.out / "quarantine" / self.name

    @property
    def places(self) -> Path:
        """For each row the number of its split in NAMES."""
        return self.of.work / "places" / f"{self.name}.npy"

    def leaks(self, reason: str) -> Path:
        """The rows of all shards that share text with held-out rows."""
        return self.of.work / f"{reason}.npy"


@dataclass(frozen=True)
class PlaceJob(After[SplitJob]):
    """The split of each row of one shard."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """A number for each row."""
        return (self.of.places,)


def write_shard_keys(job: KeyJob) -> Facts:
    """Keep the keys of a shard's groups and contents."""
    table = read_shard(job.path)
    numbers = table.column("row").to_numpy()
    groups = table.column("group").to_pylist()
    write_keys(job.groups, [bytes.fromhex(group).ljust(16, b"\0") for group in groups], numbers)
    write_keys(job.contents, normalized_keys(Turns.of(table).wholes), numbers)
    return {"rows": len(numbers)}


def place_shard(job: PlaceJob) -> Facts:
    """Write the split of each row of a shard."""
    groups = read_shard(job.of.of.path, ["group"]).column("group").to_pylist()
    places = {group: _place_of(group, job.of) for group in set(groups)}
    at = np.array([places[group] for group in groups], dtype=np.int8)
    arrays.save(job.of.places, at)
    return {name: int((at == number).sum()) for number, name in enumerate(NAMES)}


def _place_of(group: str, job: SplitJob) -> int:
    return NAMES.index(job.moved.get(group) or place(position(job.seed, group), job.spec))


def split_shard(job: SplitJob) -> Facts:
    """Write the rows of a shard to the shards of the three splits, and those that leak to the quarantine."""
    table = read_shard(job.of.path)
    at = arrays.load(job.places)
    why = _leaking(job, table.column("row").to_numpy())
    facts: Facts = {
        "written": {},
        "sha256": {},
        "repeated": 0,
        "left_out": 0,
        "dropped": dict(Counter(why[why != ""].tolist())),
    }
    for number, name in enumerate(NAMES):
        chosen = np.flatnonzero((at == number) & (why == ""))
        if name == "train" and set(job.weights) != {1.0}:
            times = copies(table.take(chosen), job.weights, job.seed)
            facts["repeated"], facts["left_out"] = int(np.maximum(times - 1, 0).sum()), int((times == 0).sum())
            chosen = np.repeat(chosen, times)
        rows = table.take(chosen)
        facts["written"][name] = len(chosen)
        facts["sha256"][name] = digest(rows.drop_columns(["file"]))
        _write_if_any(job.path(name), rows)
    gone = np.flatnonzero(why != "")
    _write_if_any(job.quarantine, _with_reasons(table.take(gone), why[gone].tolist()))
    return facts


def _leaking(job: SplitJob, numbers: NDArray[np.int64]) -> NDArray[np.object_]:
    """Why each row is dropped; "" where it is not."""
    found = np.full(len(numbers), "", dtype=object)
    for reason in leakage.REASONS:
        if job.leaks(reason).exists():
            partner = looked_up(pairs_of(job.leaks(reason), numbers), numbers, np.full(len(numbers), -1))
            found[partner >= 0] = reason
    return found


def _with_reasons(rows: "pa.Table", reasons: list[str]) -> "pa.Table":
    import pyarrow as pa

    return rows.drop_columns(["group"]).append_column("reason", pa.array(reasons, pa.string()))


def _write_if_any(path: Path, rows: "pa.Table") -> None:
    path.unlink(missing_ok=True)
    if len(rows):
        write_shard(path, rows)


def _leaks(keys: Sequence[KeyJob], jobs: Sequence[SplitJob], spec: SplittingSpec, run: Run) -> tuple[Leaks, list[str]]:
    """The rows that share text with held-out rows, which are kept where every shard finds them, and what is to be said."""
    nothing = Leaks.nothing()
    if spec.leakage == "off":
        return nothing, [f"whether splits share {SPAN} words in a row was not looked at (data.splitting.leakage: off)"]
    grams = [leakage.GramJob(job.name, job.of.path, job.places, job.of.work / "leaks") for job in jobs]
    leaks = leakage.find(grams, run)
    if spec.leakage == "error" and leaks.count:
        raise LeakageError(
            f"{leaks.count} rows share {SPAN} words in a row with held-out rows: {_examples(leaks, keys)}. Remove them, "
            f"or set data.splitting.leakage: drop to have them left out."
        )
    for reason, pairs in leaks.reasons().items():
        arrays.save(jobs[0].leaks(reason), pairs)
    if not leaks.count:
        return nothing, []
    return leaks, [
        f"{leaks.count} rows share {SPAN} words in a row with held-out rows and were left out, so that the verdict "
        f"does not rest on what was learned by heart (data.splitting.leakage: drop)"
    ]


def _examples(leaks: Leaks, keys: Sequence[KeyJob]) -> str:
    """The first rows that leak, and what they share their words with."""
    pairs = np.concatenate([leaks.into_test, leaks.into_validation])[:_EXAMPLES]
    rows = _rows({int(row) for row in pairs.flat}, keys)
    return "; ".join(
        f"{_name(rows[one])} and {_name(rows[other])}" + leakage.quoted(_text(rows[one]), _text(rows[other]))
        for one, other in pairs.tolist()
    )


def _refuse_shared_text(keys: Sequence[KeyJob], jobs: Sequence[SplitJob], leaks: Leaks, run: Run) -> None:
    """Look once more, at what was written.

    Raises:
        LeakageError: rows of two splits share text all the same.
    """
    names: tuple[Literal["train", "validation"], ...] = ("train", "validation")
    again = [
        leakage.CheckJob(f"{name}-{job.name}", job.path(name), name, job.of.work / "leaks")
        for name in names
        for job in jobs
        if job.path(name).exists()
    ]
    left = leakage.find_left(again, leaks, run)
    if left.count:
        raise LeakageError(
            f"{left.count} rows that were to be left out still share text with held-out rows: {_examples(left, keys)}. This is "
            f"a defect; data.splitting.leakage: off goes on all the same."
        )


def _moved(keys: Sequence[KeyJob], groups: int, spec: SplittingSpec, seed: int) -> tuple[dict[str, Name], list[str]]:
    """The groups that go elsewhere than their hash says, since a split would be empty, and a sentence for each."""
    if groups > _FEW_GROUPS:
        return {}, []
    sizes = Counter(group for job in keys for group in read_shard(job.path, ["group"]).column("group").to_pylist())
    places, reasons = assign(sizes, spec, seed)
    return {group: name for group, name in places.items() if name != place(position(seed, group), spec)}, reasons


def refuse_leaks(keys: Sequence[KeyJob], jobs: Sequence[SplitJob]) -> None:
    """Compare normalized contents across splits, whatever the groups say.

    Raises:
        LeakageError: naming the first rows that stand in two splits.
    """
    pairs = repeats([job.contents for job in keys])
    wanted = np.unique(pairs)
    where = np.full(len(wanted), "", dtype=object)
    for job in jobs:
        for name in NAMES:
            if job.path(name).exists():
                there = read_shard(job.path(name), ["row"]).column("row").to_numpy()
                where[np.isin(wanted, there)] = name
    at = {int(row): str(name) for row, name in zip(wanted, where, strict=True) if name}  # a weight may leave a row out
    leaks = [(int(one), int(other)) for other, one in pairs if at.get(int(one), "") != at.get(int(other), "")]
    leaks = [(one, other) for one, other in leaks if one in at and other in at]
    if leaks:
        rows = _rows({row for pair in leaks[:_EXAMPLES] for row in pair}, keys)
        told = "; ".join(
            f"{_name(rows[one])} ({at[one]}) and {_name(rows[other])} ({at[other]})" for one, other in leaks[:_EXAMPLES]
        )
        raise LeakageError(f"{len(leaks)} rows stand in two splits: {told}.")


def _rows(wanted: set[int], keys: Sequence[KeyJob]) -> dict[int, dict[str, Any]]:
    """Some rows by number."""
    found: dict[int, dict[str, Any]] = {}
    for job in keys:
        numbers = read_shard(job.path, ["row"]).column("row").to_numpy()
        there = np.flatnonzero(np.isin(numbers, list(wanted)))
        if len(there):
            found |= {row["row"]: row for row in read_shard(job.path).take(there).to_pylist()}
    return found


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['file']} line {row['line']}"


def _text(row: Mapping[str, Any]) -> str:
    return "\n".join(turn["content"] for turn in row["messages"] if turn["role"] != "system")


def copies(rows: "pa.Table", weights: Sequence[float], seed: int) -> NDArray[np.int64]:
    """How often each row counts: whole parts of its source's weight always, the rest by chance, from its content."""
    sources, lines = rows.column("source").to_pylist(), rows.column("line").to_pylist()
    texts = Turns.of(rows).wholes
    times = []
    for source, line, text in zip(sources, lines, texts, strict=True):
        whole, part = divmod(weights[source], 1)
        times.append(int(whole) + (position(seed, f"weight {source} {line} {text}") < part))
    return np.array(times, dtype=np.int64)
