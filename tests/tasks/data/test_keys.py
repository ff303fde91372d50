"""Rows with equal keys are found over more rows than a budget holds, and connected rows have one root."""

from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.keys import RECORD, distinct, looked_up, repeats, roots, write_keys


def key(number: int) -> bytes:
    return number.to_bytes(8, "little") + (number % 3).to_bytes(8, "little")


def files_of(folder: Path, numbers: list[int], count: int) -> list[Path]:
    """The keys of rows 0, 1, ... in so many files."""
    files = []
    for place, rows in enumerate(np.array_split(np.arange(len(numbers)), count)):
        files.append(folder / f"{place}.npy")
        write_keys(files[-1], [key(numbers[row]) for row in rows], rows.astype(np.int64))
    return files


@pytest.mark.parametrize("budget", [RECORD.itemsize, 200 * RECORD.itemsize, 1 << 20])
@pytest.mark.parametrize("count", [1, 7])
def test_repeats_are_those_of_a_dict(tmp_path: Path, budget: int, count: int) -> None:
    random = Random(budget + count)
    numbers = [random.randrange(200) for _ in range(500)]
    first: dict[int, int] = {}
    wanted = [[row, first[n]] for row, n in enumerate(numbers) if first.setdefault(n, row) != row]
    files = files_of(tmp_path, numbers, count)
    assert repeats(files, budget).tolist() == wanted
    assert distinct(files, budget) == (len(set(numbers)), max(map(numbers.count, numbers)))


def test_files_without_keys(tmp_path: Path) -> None:
    write_keys(tmp_path / "none.npy", [], np.empty(0, dtype=np.int64))
    assert repeats([tmp_path / "none.npy"]).tolist() == []
    assert distinct([tmp_path / "none.npy"]) == (0, 0)
    assert distinct([]) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40))
def test_roots_are_the_first_rows_of_what_is_connected(edges: list[tuple[int, int]]) -> None:
    groups = [{row} for row in range(31)]
    for one, other in edges:
        together = groups[one] | groups[other]
        for row in together:
            groups[row] = together
    found = roots(np.array(edges, dtype=np.int64).reshape(-1, 2))
    assert dict(found.tolist()) == {row: min(groups[row]) for row in range(31) if min(groups[row]) != row}
    assert found[:, 0].tolist() == sorted(found[:, 0].tolist())


def test_what_is_looked_up_is_found_or_what_stands_for_missing() -> None:
    pairs = np.array([[3, 30], [5, 50]], dtype=np.int64)
    rows = np.array([1, 3, 4, 5, 9], dtype=np.int64)
    assert looked_up(pairs, rows, rows).tolist() == [1, 30, 4, 50, 9]
    assert looked_up(pairs[:0], rows, rows).tolist() == rows.tolist()


def test_keys_that_differ_in_either_half_are_different(tmp_path: Path) -> None:
    halves = [bytes(8), b"\1" + bytes(7)]
    keys = [one + other for one in halves for other in halves]
    write_keys(tmp_path / "keys.npy", keys, np.arange(4, dtype=np.int64))
    assert len({tuple(pair) for pair in combinations(keys, 2)}) == 6
    assert repeats([tmp_path / "keys.npy"]).tolist() == []
