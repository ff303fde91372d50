"""A training done twice: what is the same, by hashes, and how far the two may be called equal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tasks.contracts import Likeness, Reproduction, TrainedModel, digest_of

Point = tuple[int, str, float]
TOLERANCE = 0.02  # of the loss, in nats, relative where it is above 1: rounding alone stays far below


def curve_of(path: Path) -> list[Point]:
    """Every loss of a training's history, by step and kind; what the clock says is left out."""
    points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(point["step"], kind, point[kind]) for point in points for kind in ("loss", "validation_loss") if kind in point]


def compared(
    run: str, first: TrainedModel, again: TrainedModel, curves: tuple[Sequence[Point], Sequence[Point]],
    environments: tuple[Mapping[str, str], Mapping[str, str]],
) -> Reproduction:  # fmt: skip
    """How far `again` is what `first` was.

    Args:
        run: name of the run.
        first: the training on record.
        again: the same, done now.
        curves: the losses of both.
        environments: what each ran on, by name.
    """
    checks = (
        Likeness(name="data", first=first.data_sha256, again=again.data_sha256),
        Likeness(name="data order", first=first.order_sha256, again=again.order_sha256),
        Likeness(name="loss curve", first=digest_of(curves[0]), again=digest_of(curves[1])),
        Likeness(name="weights", first=first.sha256, again=again.sha256),
    )
    before, now = environments
    names = sorted(before.keys() | now.keys())
    changed = tuple(
        f"{name} {now.get(name, 'none')} instead of {before.get(name, 'none')}"
        for name in names
        if before.get(name) != now.get(name)
    )
    apart = furthest(*curves)
    level = _level(checks, apart)
    return Reproduction(
        run=run, level=level, checks=checks, largest_difference=apart, changed=changed, recoveries=len(first.recoveries),
        reason=_reason(level, apart, changed, len(first.recoveries)),
    )  # fmt: skip


def furthest(one: Sequence[Point], other: Sequence[Point]) -> float | None:
    """The largest difference of two losses at the same place, relative where the loss is above 1; None: the places differ."""
    if [point[:2] for point in one] != [point[:2] for point in other]:
        return None
    return max((abs(a[2] - b[2]) / max(1.0, abs(a[2])) for a, b in zip(one, other, strict=True)), default=0.0)


def _level(checks: Sequence[Likeness], apart: float | None) -> Literal["bits", "curve", "none"]:
    same = {check.name: check.same for check in checks}
    if all(same.values()):
        return "bits"
    return "curve" if same["data"] and same["data order"] and apart is not None and apart <= TOLERANCE else "none"


def _reason(level: str, apart: float | None, changed: Sequence[str], recoveries: int) -> str:
    said = {
        "bits": "Every bit of the weights is the same.",
        "curve": f"The same data in the same order, and no loss further apart than {apart or 0.0:.1e}; the bits differ.",
        "none": "The losses were taken at other steps." if apart is None else f"Losses are up to {apart:.1e} apart.",
    }[level]
    causes = [*changed]
    if recoveries:
        causes.append(f"the first training got over {recoveries} failure(s), which may have changed its settings on the way")
    if level == "bits" or not causes:
        return said
    return f"{said} What differs: {'; '.join(causes)}."
