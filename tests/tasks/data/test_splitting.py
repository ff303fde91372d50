"""Splits follow content and seed alone, keep groups whole, and never share content."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.data import places, splitting
from tasks.data.shards import raw_schema, shard_name, write_shard
from tasks.data.spec import SplittingSpec
from tasks.errors import DatasetError, LeakageError

Any_ = Callable[..., Any]
NAMES = ("train", "validation", "test")


@pytest.fixture
def split(clean: Any_, write: Any_, folder: Any_) -> Any_:
    def run(rows: list[Any] | list[str], weights: tuple[float, ...] = (1.0,), seed: int = 0, **shares: float) -> Any:
        source = rows if rows and isinstance(rows[0], str) else write(rows)
        value, place = clean(source)
        out: Path = folder("split")
        return splitting.split(value, SplittingSpec(**shares), weights, place, out, "mem://split", seed), out

    return run


def numbered(count: int) -> list[dict[str, str]]:
    return [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(count)]


def lines(out: Path, rows_of: Any_, name: str) -> list[int]:
    return [row["line"] for row in rows_of(out, name)]


def test_shares_and_disjointness(split: Any_, rows_of: Any_) -> None:
    value, out = split(numbered(1000))
    found = {name: set(lines(out, rows_of, name)) for name in NAMES}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 1000
    assert 70 <= value.test.rows <= 130
    assert 30 <= value.validation.rows <= 70
    assert value.groups == 1000
    assert value.reasons == ()


def test_added_rows_move_no_other(split: Any_, rows_of: Any_) -> None:
    before = split(numbered(200))[1]
    after = split(numbered(300))[1]
    for name in NAMES:
        assert [line for line in lines(after, rows_of, name) if line <= 200] == lines(before, rows_of, name)


def test_same_input_same_value_and_another_seed_another_division(split: Any_) -> None:
    rows = numbered(100)
    assert split(rows)[0] == split(rows)[0]
    assert split(rows)[0].test.sha256 != split(rows, seed=1)[0].test.sha256


def test_shares_of_the_spec_are_read(split: Any_) -> None:
    none, _ = split(numbered(200), validation=0)
    assert none.validation.rows == 0
    large, _ = split(numbered(200), test=0.5)
    assert 80 <= large.test.rows <= 120


@pytest.mark.parametrize("count", [3, 4, 7, 12])
@pytest.mark.parametrize("seed", range(5))
def test_small_sets_have_every_split(split: Any_, count: int, seed: int) -> None:
    value, _ = split(numbered(count), seed=seed)
    assert min(value.train.rows, value.validation.rows, value.test.rows) >= 1
    assert value.train.rows + value.validation.rows + value.test.rows == count


def test_moved_groups_are_explained() -> None:
    spec = SplittingSpec(validation=0.001, test=0.001)
    where, reasons = places.assign({"a": 2, "b": 3, "c": 4}, spec, seed=0)
    assert sorted(where.values()) == ["test", "train", "validation"]
    assert reasons[0].startswith("test got a group of")
    assert reasons[1].startswith("validation got a group of")


def test_train_is_filled_from_the_end() -> None:
    where, reasons = places.assign({"a": 1, "b": 1, "c": 1}, SplittingSpec(validation=0.499, test=0.5), seed=3)
    assert "train" in where.values()
    assert reasons


def test_one_prompt_cannot_be_split(split: Any_) -> None:
    rows = [{"question": "same", "answer": str(n)} for n in range(5)]
    with pytest.raises(DatasetError, match="5 rows form 1 groups of like content, but test and validation and train need one"):
        split(rows)


def test_shares_that_leave_nothing(split: Any_) -> None:
    with pytest.raises(DatasetError, match="leave nothing to train on"):
        split(numbered(5), validation=0.5, test=0.5)


def test_weights_repeat_and_leave_out_training_rows_only(split: Any_, write: Any_, rows_of: Any_) -> None:
    one = write(numbered(100), "one.jsonl")
    two = write([{"question": f"other {n}", "answer": "x"} for n in range(100)], "two.jsonl")
    plain, out = split([one, two], weights=(1.0, 1.0))
    heavy, heavy_out = split([one, two], weights=(2.0, 0.5))
    assert (heavy.test, heavy.validation) == (plain.test, plain.validation)
    before, after = ([row["source"] for row in rows_of(folder, "train")] for folder in (out, heavy_out))
    assert after.count(0) == 2 * before.count(0)
    assert heavy.repeated == before.count(0)
    assert heavy.left_out == before.count(1) - after.count(1)
    assert 0.3 < after.count(1) / before.count(1) < 0.7


def shared_by_two(count: int = 60) -> list[dict[str, str]]:
    """Rows of which each answer shares 14 words with that of the next row, and a line of its own."""
    return [
        {"question": f"q{n} about {n}", "answer": " ".join(f"w{n // 2}x{word}" for word in range(14)) + f" end {n}"}
        for n in range(count)
    ]


@pytest.fixture
def related(clean: Any_, write: Any_, folder: Any_) -> Any_:
    """The split of rows of which pairs share text and are no group."""

    def run(**options: Any) -> Any:
        value, place = clean(write(shared_by_two()), cleaning={"near_duplicates": 0})
        out: Path = folder("split")
        spec = SplittingSpec(test=0.3, validation=0.2, **options)
        return splitting.split(value, spec, [1.0], place, out, "mem://split", 0), out

    return run


def test_rows_that_share_text_with_held_out_rows_are_left_out_and_accounted_for(related: Any_, rows_of: Any_) -> None:
    before, all_out = related(leakage="off")
    value, out = related()
    where = {line: name for name in NAMES for line in lines(all_out, rows_of, name)}
    order = {"test": 2, "validation": 1, "train": 0}
    expected = {}
    for one in range(1, 61, 2):
        first, second = sorted((one, one + 1), key=lambda line: order[where[line]])
        if where[first] != where[second]:
            expected[first] = f"leaks_into_{where[second]}"
    assert len(expected) > 10
    gone = {row["line"]: row for row in rows_of(out, "quarantine")}
    assert {line: row["reason"] for line, row in gone.items()} == expected
    assert all(row["file"].endswith("data.jsonl") and len(row["messages"]) == 2 for row in gone.values())
    assert "group" not in gone[next(iter(gone))]
    for name in NAMES:
        assert lines(out, rows_of, name) == [line for line in lines(all_out, rows_of, name) if line not in expected]
    counts = {count.reason: count.rows for count in value.dropped}
    assert counts == {reason: list(expected.values()).count(reason) for reason in set(expected.values())}
    assert value.quarantine_uri == "mem://split/quarantine"
    assert value.test == before.test
    assert f"{len(expected)} rows share 13 words in a row with held-out rows and were left out" in value.reasons[-1]
    assert before.dropped == ()
    assert before.quarantine_uri == ""
    assert before.reasons[-1].startswith("whether splits share 13 words in a row was not looked at")


def test_rows_that_share_text_stop_the_run_where_asked(related: Any_) -> None:
    with pytest.raises(LeakageError) as caught:
        related(leakage="error")
    said = str(caught.value)
    assert "rows share 13 words in a row with held-out rows: " in said
    assert re.search(r'data\.jsonl line \d+ and \S*data\.jsonl line \d+ \("w\d+x0 w\d+x1 ', said)
    assert said.endswith("Remove them, or set data.splitting.leakage: drop to have them left out.")


def test_weights_count_only_rows_that_stay(clean: Any_, write: Any_, folder: Any_) -> None:
    value, place = clean(write(shared_by_two()), cleaning={"near_duplicates": 0})
    spec = SplittingSpec(test=0.3, validation=0.2)
    once = splitting.split(value, spec, [1.0], place, folder("split"), "mem://split", 0)
    twice = splitting.split(value, spec, [2.0], place, folder("split"), "mem://split", 0)
    assert twice.train.rows == 2 * once.train.rows == 2 * twice.repeated
    assert twice.dropped == once.dropped


def test_a_split_that_leaks_away_stops_the_run(clean: Any_, write: Any_, folder: Any_) -> None:
    text = " ".join(f"w{word}" for word in range(14))
    rows = [{"question": f"q{n} {'z' * n}", "answer": f"{text} end {n}"} for n in range(6)]
    value, place = clean(write(rows), cleaning={"near_duplicates": 0})
    with pytest.raises(DatasetError, match=r"No row is left for train and validation: .*\(leaks_into_test \d\)"):
        splitting.split(value, SplittingSpec(), [1.0], place, folder("split"), "mem://split", 0)


def test_leaks_are_refused(tmp_path: Path) -> None:
    def turns(question: str, answer: str) -> list[dict[str, Any]]:
        return [
            {"role": "user", "content": question, "learn": True},
            {"role": "assistant", "content": answer, "learn": True},
        ]

    spec = SplittingSpec(validation=0, test=0.5)
    groups = {places.place(places.position(0, f"{number:016x}"), spec): f"{number:016x}" for number in range(20)}
    assert set(groups) == {"train", "test"}
    schema = raw_schema().insert(0, pa.field("row", pa.int64())).append(pa.field("group", pa.string()))
    for second, leaks in ((groups["test"], True), (groups["train"], False)):
        folder = tmp_path / second
        rows = [
            {"row": 4, "file": "f", "line": 1, "source": 0, "messages": turns("A  b", "c"), "group": groups["train"]},
            {"row": 9, "file": "f", "line": 9, "source": 0, "messages": turns("a B", "C"), "group": second},
        ]
        key = splitting.KeyJob(shard_name(0), folder / "rows" / shard_name(0), folder / "work")
        write_shard(key.path, pa.Table.from_pylist(rows, schema=schema))
        job = splitting.SplitJob(key, folder, spec, (1.0,), 0, {})
        splitting.write_shard_keys(key)
        splitting.place_shard(splitting.PlaceJob(job))
        splitting.split_shard(job)
        expected = pytest.raises(LeakageError, match=r"1 rows stand in two splits: f line 1 \(train\) and f line 9 \(test\)")
        with expected if leaks else nullcontext():
            splitting.refuse_leaks([key], [job])
