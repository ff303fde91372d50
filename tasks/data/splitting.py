"""Train, validation and test rows: a row goes where the hash of its group sends it, so added rows move no other."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tasks.contracts import CleanDataset, DatasetSplits, SplitPart, digest_of
from tasks.data.rows import Row, RowWriter, normalized, read_rows, schema, whole_of
from tasks.data.spec import SplittingSpec
from tasks.errors import DatasetError, LeakageError

Name = Literal["train", "validation", "test"]
NAMES: tuple[Name, ...] = ("train", "validation", "test")
_FAR_OFF = 0.1  # a split this much larger or smaller than asked, as a share of all rows, is explained


def split(
    clean: CleanDataset, spec: SplittingSpec, weights: Sequence[float], rows: Path, out: Path, uri: str, seed: int
) -> DatasetSplits:
    """Write `out`/train.parquet, validation.parquet and test.parquet.

    Args:
        clean: what cleaning kept.
        spec: the shares asked for.
        weights: one a source file, in the order of `RawDataset.files`; they apply to training rows alone.
        rows: folder that holds the clean rows.parquet.
        out: folder to write to.
        uri: where `out` will lie.
        seed: another seed is another division.

    Raises:
        DatasetError: the rows cannot be divided.
        LeakageError: the same content stands in two splits, which is a defect.
    """
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in read_rows(rows / "rows.parquet"):
        groups[row["group"]].append(row)
    sizes = {group: len(members) for group, members in groups.items()}
    places, reasons = assign(sizes, spec, seed)
    parts = _parts(groups, places)
    refuse_leaks(parts)
    parts["train"], repeated, left_out = weigh(parts["train"], weights, seed)
    if not parts["train"]:
        raise DatasetError("The weights of the sources leave out every training row. Raise a weight in data.source.")
    written = {name: _write(parts[name], name, out, uri) for name in NAMES}
    return DatasetSplits(
        name=clean.name,
        sha256=digest_of([clean.task, *(written[name].sha256 for name in NAMES)]),
        parent_sha256=clean.sha256,
        task=clean.task,
        train=written["train"],
        validation=written["validation"],
        test=written["test"],
        groups=len(groups),
        repeated=repeated,
        left_out=left_out,
        reasons=tuple(reasons),
    )


def position(seed: int, text: str) -> float:
    """A place from 0 up to 1 that follows from seed and text alone."""
    found = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(found, "big") / 2**64


def assign(sizes: Mapping[str, int], spec: SplittingSpec, seed: int) -> tuple[dict[str, Name], list[str]]:
    """The split of each group, and a sentence for everything that is not as asked.

    Positions below the test share are test, the next ones validation, the rest train. Where that leaves a needed split
    empty, it gets the group nearest to it from a split that has another.
    """
    if spec.validation + spec.test >= 1:
        raise DatasetError(
            f"data.splitting: validation {spec.validation} and test {spec.test} leave nothing to train on. Lower one."
        )
    order = sorted(sizes, key=lambda group: (position(seed, group), group))
    needed: tuple[Name, ...] = ("test", "validation", "train") if spec.validation else ("test", "train")
    if len(order) < len(needed):
        raise DatasetError(
            f"{sum(sizes.values())} rows form {len(order)} groups of like content, but {' and '.join(needed)} need "
            f"one each: rows with the same prompt stay together. Add rows with other prompts."
        )
    places: dict[str, Name] = {group: _place(position(seed, group), spec) for group in order}
    reasons = []
    for name in needed:
        if name not in places.values():
            moved = _nearest(order, places, name)
            reasons.append(f"{name} got a group of {sizes[moved]} rows from {places[moved]}, since chance had left it empty")
            places[moved] = name
    return places, reasons + _far_off(sizes, places, spec)


def _place(at: float, spec: SplittingSpec) -> Name:
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


def _far_off(sizes: Mapping[str, int], places: Mapping[str, Name], spec: SplittingSpec) -> list[str]:
    total = sum(sizes.values())
    reasons = []
    for name, asked in (("validation", spec.validation), ("test", spec.test)):
        got = sum(size for group, size in sizes.items() if places[group] == name) / total
        if abs(got - asked) > _FAR_OFF:
            largest = max(sizes.values())
            reasons.append(
                f"{name} has {got:.0%} of the rows, asked {asked:.0%}: groups stay whole, and the largest has {largest} "
                f"of {total}"
            )
    return reasons


def _parts(groups: Mapping[str, Sequence[Row]], places: Mapping[str, Name]) -> dict[Name, list[Row]]:
    parts: dict[Name, list[Row]] = {name: [] for name in NAMES}
    for group, members in groups.items():
        parts[places[group]] += members
    return {name: sorted(rows, key=lambda row: int(row["row"])) for name, rows in parts.items()}


def refuse_leaks(parts: Mapping[Name, Sequence[Row]]) -> None:
    """Compare normalized contents across splits, whatever the groups say."""
    seen: dict[str, tuple[Name, Row]] = {}
    leaks = []
    for name, rows in parts.items():
        for row in rows:
            other, first = seen.setdefault(normalized(whole_of(row["messages"])), (name, row))
            if other != name:
                leaks.append(f"{first['file']} line {first['line']} ({other}) and {row['file']} line {row['line']} ({name})")
    if leaks:
        raise LeakageError(f"{len(leaks)} rows stand in two splits: {'; '.join(leaks[:5])}.")


def weigh(rows: Sequence[Row], weights: Sequence[float], seed: int) -> tuple[list[Row], int, int]:
    """The rows as often as their source counts, how many copies that added and how many rows it left out."""
    weighed: list[Row] = []
    repeated = left_out = 0
    for row in rows:
        whole, part = divmod(weights[row["source"]], 1)
        times = int(whole) + (position(seed, f"weight {row['source']} {row['line']} {whole_of(row['messages'])}") < part)
        weighed += [row] * times
        repeated += max(times - 1, 0)
        left_out += times == 0
    return weighed, repeated, left_out


def _write(rows: Sequence[Row], name: Name, out: Path, uri: str) -> SplitPart:
    path = out / f"{name}.parquet"
    with RowWriter(path, schema(("group",))) as writer:
        for row in rows:
            writer.write(row)
    return SplitPart(uri=f"{uri}/{name}.parquet", sha256=writer.sha256(), rows=writer.rows)
