"""Train, validation and test rows: a row goes where the hash of its group sends it, so added rows move no other."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.contracts import CleanDataset, DatasetSplits, Shard, SplitPart, digest_of
from tasks.data.keys import distinct, repeats, write_keys
from tasks.data.rows import normalized
from tasks.data.running import Facts, Run, Told, each, in_turn, silent
from tasks.data.shards import Turns, digest, read_shard, write_shard
from tasks.data.spec import SplittingSpec
from tasks.errors import DatasetError, LeakageError

if TYPE_CHECKING:
    import pyarrow as pa

Name = Literal["train", "validation", "test"]
NAMES: tuple[Name, ...] = ("train", "validation", "test")
_FAR_OFF = 0.1  # a split this much larger or smaller than asked, as a share of all rows, is explained
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
    """Write the shards of `out`/train, validation and test.

    Args:
        clean: what cleaning kept.
        spec: the shares asked for.
        weights: one a source file, in the order of `RawDataset.files`; they apply to training rows alone.
        rows: folder that holds the clean rows/.
        out: folder to write to; what an earlier process finished there is not done again.
        uri: where `out` will lie.
        seed: another seed is another division.
        run: in one process or in several.
        progress: told shards done and shards in all.

    Raises:
        DatasetError: the rows cannot be divided.
        LeakageError: the same content stands in two splits, which is a defect.
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
    found = each(run, split_shard, jobs, work / "split-marks", progress)
    total = sum(sum(facts["rows"].values()) for facts in found)
    reasons += _far_off({name: sum(facts["rows"][name] for facts in found) for name in NAMES}, total, largest, spec)
    refuse_leaks(keys, jobs)
    parts = {name: _part(name, keys, found, uri) for name in NAMES}
    if not parts["train"].rows:
        raise DatasetError("The weights of the sources leave out every training row. Raise a weight in data.source.")
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
        repeated=sum(facts["repeated"] for facts in found),
        left_out=sum(facts["left_out"] for facts in found),
        reasons=tuple(reasons),
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
class SplitJob:
    """The division of one shard.

    Args:
        of: the shard and its keys.
        out: folder of the result.
        spec: the shares.
        weights: one a source.
        seed: of the division.
        moved: groups that go elsewhere than their hash says.
    """

    of: KeyJob
    out: Path
    spec: SplittingSpec
    weights: tuple[float, ...]
    seed: int
    moved: Mapping[str, Name]

    @property
    def name(self) -> str:
        """The shard's."""
        return self.of.name

    @property
    def outputs(self) -> list[Path]:
        """Those of the three shards that have rows."""
        return [path for name in NAMES if (path := self.path(name)).exists()]

    def path(self, split_name: Name) -> Path:
        """The shard of one split."""
        return self.out / split_name / self.name


def write_shard_keys(job: KeyJob) -> Facts:
    """Keep the keys of a shard's groups and contents."""
    table = read_shard(job.path)
    numbers = table.column("row").to_numpy()
    groups = table.column("group").to_pylist()
    write_keys(job.groups, [bytes.fromhex(group).ljust(16, b"\0") for group in groups], numbers)
    texts = Turns.of(table).wholes
    write_keys(job.contents, [hashlib.sha256(normalized(text).encode()).digest()[:16] for text in texts], numbers)
    return {"rows": len(numbers)}


def split_shard(job: SplitJob) -> Facts:
    """Write the rows of a shard to the shards of the three splits."""
    table = read_shard(job.of.path)
    groups = table.column("group").to_pylist()
    places = {group: job.moved.get(group) or place(position(job.seed, group), job.spec) for group in set(groups)}
    at = np.array([places[group] for group in groups], dtype=object)
    facts: Facts = {"rows": {}, "written": {}, "sha256": {}, "repeated": 0, "left_out": 0}
    for name in NAMES:
        chosen = np.flatnonzero(at == name)
        facts["rows"][name] = len(chosen)
        if name == "train" and set(job.weights) != {1.0}:
            times = copies(table.take(chosen), job.weights, job.seed)
            facts["repeated"], facts["left_out"] = int(np.maximum(times - 1, 0).sum()), int((times == 0).sum())
            chosen = np.repeat(chosen, times)
        rows = table.take(chosen)
        facts["written"][name] = len(chosen)
        facts["sha256"][name] = digest(rows.drop_columns(["file"]))
        job.path(name).unlink(missing_ok=True)
        if len(chosen):
            write_shard(job.path(name), rows)
    return facts


def _moved(keys: Sequence[KeyJob], groups: int, spec: SplittingSpec, seed: int) -> tuple[dict[str, Name], list[str]]:
    """The groups that go elsewhere than their hash says, since a split would be empty, and a sentence for each."""
    if groups > _FEW_GROUPS:
        return {}, []
    sizes = Counter(group for job in keys for group in read_shard(job.path, ["group"]).column("group").to_pylist())
    places, reasons = assign(sizes, spec, seed)
    return {group: name for group, name in places.items() if name != place(position(seed, group), spec)}, reasons


def position(seed: int, text: str) -> float:
    """A place from 0 up to 1 that follows from seed and text alone."""
    found = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(found, "big") / 2**64


def assign(sizes: Mapping[str, int], spec: SplittingSpec, seed: int) -> tuple[dict[str, Name], list[str]]:
    """The split of each group, and a sentence for everything that is not as asked.

    Positions below the test share are test, the next ones validation, the rest train. Where that leaves a needed split
    empty, it gets the group nearest to it from a split that has another.
    """
    order = sorted(sizes, key=lambda group: (position(seed, group), group))
    needed: tuple[Name, ...] = ("test", "validation", "train") if spec.validation else ("test", "train")
    if len(order) < len(needed):
        raise DatasetError(
            f"{sum(sizes.values())} rows form {len(order)} groups of like content, but {' and '.join(needed)} need "
            f"one each: rows with the same prompt stay together. Add rows with other prompts."
        )
    places: dict[str, Name] = {group: place(position(seed, group), spec) for group in order}
    reasons = []
    for name in needed:
        if name not in places.values():
            moved = _nearest(order, places, name)
            reasons.append(f"{name} got a group of {sizes[moved]} rows from {places[moved]}, since chance had left it empty")
            places[moved] = name
    return places, reasons


def place(at: float, spec: SplittingSpec) -> Name:
    """The split of a position."""
    if at < spec.test:
        return "test"
    return "validation" if at < spec.test + spec.validation else "train"


def _nearest(order: Sequence[str], places: Mapping[str, Name], name: Name) -> str:
    """The group to move to the empty split `name`: test takes from the front of the order, train from its end."""
    counts = {other: sum(place == other for place in places.values()) for other in NAMES}
    spare = [group for group in order if counts[places[group]] > 1]
    if name == "validation":
        spare = [group for group in spare if places[group] == "train"] or spare[::-1]
    return spare[-1] if name == "train" else spare[0]


def _far_off(sizes: Mapping[Name, int], total: int, largest: int, spec: SplittingSpec) -> list[str]:
    reasons = []
    asked: tuple[tuple[Name, float], ...] = (("validation", spec.validation), ("test", spec.test))
    for name, share in asked:
        got = sizes[name] / total
        if abs(got - share) > _FAR_OFF:
            reasons.append(
                f"{name} has {got:.0%} of the rows, asked {share:.0%}: groups stay whole, and the largest has {largest} "
                f"of {total}"
            )
    return reasons


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
        named = _places({row for pair in leaks[:5] for row in pair}, keys)
        told = "; ".join(f"{named[one]} ({at[one]}) and {named[other]} ({at[other]})" for one, other in leaks[:5])
        raise LeakageError(f"{len(leaks)} rows stand in two splits: {told}.")


def _places(wanted: set[int], keys: Sequence[KeyJob]) -> dict[int, str]:
    found = {}
    for job in keys:
        for row in read_shard(job.path, ["row", "file", "line"]).to_pylist():
            if row["row"] in wanted:
                found[row["row"]] = f"{row['file']} line {row['line']}"
    return found


def copies(rows: "pa.Table", weights: Sequence[float], seed: int) -> NDArray[np.int64]:
    """How often each row counts: whole parts of its source's weight always, the rest by chance, from its content."""
    sources, lines = rows.column("source").to_pylist(), rows.column("line").to_pylist()
    texts = Turns.of(rows).wholes
    times = []
    for source, line, text in zip(sources, lines, texts, strict=True):
        whole, part = divmod(weights[source], 1)
        times.append(int(whole) + (position(seed, f"weight {source} {line} {text}") < part))
    return np.array(times, dtype=np.int64)
