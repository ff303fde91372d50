"""Where a group of rows goes: its place follows from the seed and its own hash."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from tasks.data.spec import SplittingSpec
from tasks.errors import DatasetError

Name = Literal["train", "validation", "test"]
NAMES: tuple[Name, ...] = ("train", "validation", "test")
_FAR_OFF = 0.1  # a split this much larger or smaller than asked, as a share of all rows, is explained


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


def far_off(sizes: Mapping[Name, int], total: int, largest: int, spec: SplittingSpec) -> list[str]:
    """A sentence for each split that is far from the share asked for; `largest` is the size of the largest group."""
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
