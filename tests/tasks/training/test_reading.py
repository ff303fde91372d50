"""Sequences come back as they were written: from a file, from shards, in memory and mapped into it."""

import json
import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.errors import DatasetError, WorkspaceError
from tasks.training import reading
from tasks.training.reading import Sequences, read_sequences
from tests.conftest import progression, write_sequences


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, Path]:
    """The same sequences as one file and as a folder of three shards, one of them empty."""
    random = Random(3)
    rows = [progression(random) for _ in range(50)]
    write_sequences(tmp_path / "train.parquet", rows)
    (tmp_path / "train").mkdir()
    for number, part in enumerate((rows[:20], [], rows[20:])):
        write_sequences(tmp_path / "train" / f"part-{number:05}.parquet", part)
    return tmp_path / "train.parquet", tmp_path / "train"


def same(one: Sequences, other: Sequences) -> bool:
    pairs = ((one.tokens, other.tokens), (one.supervised, other.supervised), (one.offsets, other.offsets))
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_a_folder_of_shards_is_read_as_one_file_is(shards: tuple[Path, Path]) -> None:
    file, folder = shards
    assert same(read_sequences(file), read_sequences(folder))
    assert len(read_sequences(folder)) == 50


@pytest.mark.parametrize("which", [0, 1], ids=["file", "folder"])
def test_what_is_mapped_into_memory_is_the_same(shards: tuple[Path, Path], tmp_path: Path, which: int) -> None:
    mapped = read_sequences(shards[which], tmp_path / "scratch", in_memory=0)
    assert same(mapped, read_sequences(shards[which]))
    assert mapped.learned(range(50)) == read_sequences(shards[0]).learned(range(50))
    assert (tmp_path / "scratch" / "train.tokens").stat().st_size == mapped.tokens.nbytes


def test_the_size_decides_and_without_scratch_all_is_in_memory(shards: tuple[Path, Path], tmp_path: Path) -> None:
    read_sequences(shards[0], tmp_path / "scratch")
    read_sequences(shards[0], None, in_memory=0)
    assert not (tmp_path / "scratch").exists()
    size = read_sequences(shards[0]).tokens.nbytes
    read_sequences(shards[0], tmp_path / "scratch", in_memory=size)
    assert not (tmp_path / "scratch").exists()
    read_sequences(shards[0], tmp_path / "scratch", in_memory=size - 1)
    assert (tmp_path / "scratch").exists()


def test_scratch_is_written_once_and_anew_where_it_is_not_what_was_written(shards: tuple[Path, Path], tmp_path: Path) -> None:
    file, scratch = shards[0], tmp_path / "scratch"
    right = read_sequences(file)

    def read() -> int:
        assert same(read_sequences(file, scratch, in_memory=0), right)
        return (scratch / "train.tokens").stat().st_mtime_ns

    written = read()
    assert read() == written
    tokens = scratch / "train.tokens"
    tokens.write_bytes(bytes(8) + tokens.read_bytes()[8:])  # the same size, other bytes
    assert read() > written
    tokens.write_bytes(tokens.read_bytes()[:-4])
    read()
    (scratch / "train.json").write_text("{")
    read()
    (scratch / "train.supervised").unlink()
    read()
    write_sequences(file, [[5, 6, 7, 8, 9, 10]])  # another source
    assert read_sequences(file, scratch, in_memory=0).tokens.tolist() == [5, 6, 7, 8, 9, 10]


def test_beside_a_process_that_has_checked_only_the_sizes_count(shards: tuple[Path, Path], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    read_sequences(shards[0], scratch, in_memory=0)
    tokens = scratch / "train.tokens"
    tokens.write_bytes(bytes(8) + tokens.read_bytes()[8:])
    assert read_sequences(shards[0], scratch, in_memory=0, check=False).tokens[:2].tolist() == [0, 0]


def test_memory_is_bounded_by_some_rows(tmp_path: Path) -> None:
    rows, length = 100_000, 100
    ids = pa.ListArray.from_arrays(np.arange(0, rows * length + 1, length, dtype=np.int32), np.ones(rows * length, np.int32))
    marks = pa.ListArray.from_arrays(ids.offsets, pa.array(np.ones(rows * length, np.int8)))
    pq.write_table(pa.table({"input_ids": ids, "supervised": marks}), tmp_path / "train.parquet", row_group_size=5_000)
    del ids, marks
    tracemalloc.start()
    sequences = read_sequences(tmp_path / "train.parquet", tmp_path / "scratch", in_memory=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sequences.tokens.nbytes == 40_000_000
    assert peak < 12_000_000


@pytest.mark.parametrize("kind", [pa.large_list, pa.list_])
def test_both_kinds_of_lists_are_read(tmp_path: Path, kind: type) -> None:
    table = pa.table({
        "input_ids": pa.array([[1, 2], [3]], kind(pa.int32())), "supervised": pa.array([[0, 1], [1]], kind(pa.int8())),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    sequences = read_sequences(tmp_path / "x.parquet")
    assert (sequences.tokens.tolist(), sequences.supervised.tolist()) == ([1, 2, 3], [0, 1, 1])
    assert sequences.lengths.tolist() == [2, 1]


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "x.csv").touch()
    with pytest.raises(DatasetError, match=r"wrong holds x\.csv, but part-00000\.parquet and so on were expected"):
        read_sequences(tmp_path / "wrong")
    torn = pa.table({"input_ids": [[1, 2], [3]], "supervised": [[0], [1, 1]]})
    pq.write_table(torn, tmp_path / "torn.parquet")
    with pytest.raises(DatasetError, match=r"torn\.parquet: input_ids and supervised differ in length"):
        read_sequences(tmp_path / "torn.parquet")
    write_sequences(tmp_path / "x.parquet", [[1, 2, 3]])
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3})())
    with pytest.raises(WorkspaceError, match=r"The sequences need 0\.0 GiB beside the checkpoints in .*scratch.*Make room"):
        read_sequences(tmp_path / "x.parquet", tmp_path / "scratch", in_memory=0)
    assert not (tmp_path / "scratch" / "x.json").exists()


def test_the_manifest_is_written_last(shards: tuple[Path, Path], tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    read_sequences(shards[1], scratch, in_memory=0)
    content = json.loads((scratch / "train.json").read_text())
    assert set(content) == {"source", "files"}
    assert set(content["files"]) == {"tokens", "supervised", "offsets"}
    newest = max(scratch.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "train.json"
