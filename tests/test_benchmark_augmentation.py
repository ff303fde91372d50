"""The benchmark of synthetic rows compares the same held-out rows."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.augmentation import compared, line
from tasks.evaluation.items import Result, write_results


def result(folder: Path, losses: list[float], first: int = 0) -> dict[str, Any]:
    rows = [
        Result(role=role, benchmark="held_out", item=at, row=first + at, group=str(at), loss=loss + (role == "base"), tokens=3)
        for role in ("base", "tuned")
        for at, loss in enumerate(losses)
    ]  # fmt: skip
    folder.mkdir()
    write_results(folder / "items.parquet", rows)
    splits = {"train": {"rows": 90}, "synthetic": 45}
    return {"evaluation": {"items_uri": str(folder / "items.parquet")}, "data": {"splits": splits}}


def test_a_constant_gain_is_a_gain_of_each_row(tmp_path: Path) -> None:
    before = [1.0 + at / 10 for at in range(40)]
    plain, more = result(tmp_path / "a", before), result(tmp_path / "b", [loss - 0.25 for loss in before])
    assert line(120, 0, plain, more) == "| 120 | 0 | 90 | 45 | 2.9500 | 2.7000 | -0.2500 (-0.2500 to -0.2500, 40 rows) |"
    with pytest.raises(SystemExit, match="not examined on the same rows"):
        line(120, 0, plain, result(tmp_path / "c", before, first=1))


def test_noise_is_no_gain() -> None:
    said = compared([1.0] * 40, [1.0 + (-1) ** at * 0.1 for at in range(40)], [str(at) for at in range(40)])
    assert said.startswith(("+0.0000 (-0.0", "-0.0000 (-0.0"))
    assert " to +0.0" in said
