"""Rows that share 13 words in a row with held-out rows are found, all of them and no others."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data import grams, leakage
from tasks.data.running import several
from tasks.data.shards import Turns, raw_schema, shard_name, write_shard
from tasks.encryption import arrays

TRAIN, VALIDATION, TEST = 0, 1, 2
Row = tuple[int, str]  # split, text
Any_ = Callable[..., Any]


def words(first: int, count: int = 13) -> str:
    """So many words that stand nowhere else."""
    return " ".join(f"w{first + number}" for number in range(count))


def table_of(rows: Sequence[list[dict[str, Any]]], first: int = 0) -> pa.Table:
    schema = raw_schema().insert(0, pa.field("row", pa.int64()))
    filled = [
        {"row": 3 * (first + number), "file": "f", "line": number, "source": 0, "messages": turns}
        for number, turns in enumerate(rows)
    ]
    return pa.Table.from_pylist(filled, schema=schema)


def spoken(text: str, role: str = "text") -> dict[str, Any]:
    return {"role": role, "content": text, "learn": True}


def jobs_of(folder: Path, rows: Sequence[Row], size: int = 1_000) -> list[leakage.GramJob]:
    """The rows in shards of `size`; row `i` has the number `3 * i`."""
    jobs = []
    for number, first in enumerate(range(0, len(rows), size)):
        some, name = rows[first : first + size], shard_name(number)
        job = leakage.GramJob(name, folder / "rows" / name, folder / "places" / f"{name}.npy", folder / "work")
        write_shard(job.path, table_of([[spoken(text)] for _, text in some], first))
        arrays.save(job.places, np.array([place for place, _ in some], dtype=np.int8))
        jobs.append(job)
    return jobs


def found(leaks: leakage.Leaks) -> tuple[list[list[int]], list[list[int]]]:
    return (leaks.into_test // 3).tolist(), (leaks.into_validation // 3).tolist()


CASES: dict[str, tuple[list[Row], list[list[int]], list[list[int]]]] = {
    "thirteen words": ([(TRAIN, f"a {words(0)} b"), (TEST, f"c {words(0)} d")], [[0, 1]], []),
    "twelve words": ([(TRAIN, f"a {words(0, 12)} b"), (TEST, f"c {words(0, 12)} d")], [], []),
    "case and blanks": ([(TRAIN, words(0).upper().replace(" ", "\n ")), (TEST, f"c {words(0)}")], [[0, 1]], []),
    "punctuation is part of a word": ([(TRAIN, words(0)), (TEST, words(0).replace("w5", "w5,"))], [], []),
    "validation": ([(TRAIN, words(0)), (VALIDATION, words(0, 14))], [], [[0, 1]]),
    "validation into test": ([(VALIDATION, words(0)), (TEST, words(0, 14))], [[0, 1]], []),
    "what leaks into both counts once": (
        [(TRAIN, f"{words(0)} and {words(50)}"), (VALIDATION, words(0)), (TEST, words(50))], [[0, 2]], [],
    ),
    "a dropped validation row is no reason": (
        [(TRAIN, words(0)), (VALIDATION, f"{words(0)} and {words(50)}"), (TEST, words(50))], [[1, 2]], [],
    ),
    "the first partner is named": ([(TEST, words(0)), (TRAIN, words(0)), (TEST, words(0, 20))], [[1, 0]], []),
    "no words in common": ([(TRAIN, words(0)), (VALIDATION, words(50)), (TEST, words(90))], [], []),
    "short rows are compared whole": (
        [(TRAIN, "the  Cat sat"), (TRAIN, "the cat sat down"), (TEST, "The cat sat"), (TRAIN, "")], [[0, 2]], [],
    ),
    "characters of scripts without blanks": (
        [(TRAIN, "天上有很多很多的星星在夜里发光"), (TEST, "我看见天上有很多很多的星星在夜里"), (TRAIN, "天上有很多")],
        [[0, 1]], [],
    ),
    "ten rows may share what is not common": (
        [*[(TRAIN, f"{words(0)} {words(100 * n)}") for n in range(1, 10)], (TEST, f"{words(0)} x")],
        [[n, 9] for n in range(9)], [],
    ),
    "more rows share a preamble": (
        [*[(TRAIN, f"{words(0)} {words(100 * n)}") for n in range(1, 12)], (TEST, f"{words(0)} x")], [], [],
    ),
    "a preamble and the first words of a task": (
        [*[(TRAIN, f"{words(0, 15)} find the {words(100 * n)}") for n in range(1, 12)], (TRAIN, f"{words(0, 15)} find a b c"),
         (TEST, f"{words(0, 15)} find a b c d")], [], [],
    ),
    "a task of thirteen words after a preamble": (
        [*[(TRAIN, f"{words(0, 15)} find the {words(100 * n)}") for n in range(1, 12)],
         (TRAIN, f"{words(0, 15)} {words(5000)}"), (TEST, f"{words(0, 15)} {words(5000)}")], [[11, 12]], [],
    ),
    "a row that says it often makes nothing common": (
        [(TRAIN, " and ".join([words(0)] * 12)), (TEST, words(0))], [[0, 1]], [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1_000, 1])
def test_what_leaks(name: str, size: int, tmp_path: Path) -> None:
    rows, into_test, into_validation = CASES[name]
    assert found(leakage.find(jobs_of(tmp_path, rows, size))) == (into_test, into_validation)


def test_a_run_may_cross_turns_but_not_the_system_message(tmp_path: Path) -> None:
    turns = [
        [spoken(words(0), "system"), spoken(words(100, 6), "user"), spoken(words(106, 7), "assistant")],
        [spoken(words(0), "user"), spoken("x", "assistant")],
        [spoken(words(100), "user"), spoken("y", "assistant")],
    ]
    job = jobs_of(tmp_path, [(TRAIN, ""), (TEST, ""), (TEST, "")])[0]
    write_shard(job.path, table_of(turns))
    assert found(leakage.find([job])) == ([[0, 2]], [])


def plain(rows: Sequence[Row]) -> tuple[set[int], set[int]]:
    """The same by the definition: sets of tuples of words."""

    def windows(text: str) -> list[tuple[str, ...]]:
        said = text.split()
        return [tuple(said[at : at + 13]) for at in range(len(said) - 12)] if len(said) > 12 else [tuple(said)] * bool(said)

    every = [windows(text) for _, text in rows]
    times: dict[tuple[str, ...], int] = {}
    for some in every:
        for one in set(some):
            times[one] = times.get(one, 0) + 1
    own = []
    for some in every:
        common = [at for at, one in enumerate(some) if times[one] > leakage.COMMON_ROWS]
        own.append({one for at, one in enumerate(some) if not any(abs(at - other) < 13 for other in common)})

    def leaking(places: tuple[int, ...], held: set[int]) -> set[int]:
        against = set().union(*(own[row] for row in held)) if held else set()
        return {row for row, (place, _) in enumerate(rows) if place in places and against & set(every[row])}

    into_test = leaking((TRAIN, VALIDATION), {row for row, (place, _) in enumerate(rows) if place == TEST})
    kept = {row for row, (place, _) in enumerate(rows) if place == VALIDATION} - into_test
    return into_test, leaking((TRAIN,), kept) - into_test


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_as_the_definition_says(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    parts = [words(100 * number, length) for number, length in enumerate((5, 8, 13, 20, 3))]
    texts = st.lists(st.sampled_from(parts), max_size=5).map(" ".join)
    rows = data.draw(st.lists(st.tuples(st.sampled_from([TRAIN, VALIDATION, TEST]), texts), min_size=1, max_size=40))
    leaks = leakage.find(jobs_of(tmp_path_factory.mktemp("leaks"), rows, 7))
    assert tuple({row for row, _ in pairs} for pairs in found(leaks)) == plain(rows)


@pytest.mark.parametrize("budget", [1, 2_000])
def test_ranges_of_hashes_change_nothing(budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(number % 3, f"{words(0, 14)} {words(30 * (number // 2) + 50, 14)}") for number in range(40)]
    whole = leakage.find(jobs_of(tmp_path / "whole", rows, 9))
    monkeypatch.setattr(leakage, "_BUDGET", budget)
    parts = leakage.find(jobs_of(tmp_path / "parts", rows, 9))
    assert found(parts) == found(whole)
    assert whole.count > 10


@pytest.mark.slow
def test_processes_change_nothing(tmp_path: Path) -> None:
    rows = [(number % 3, f"{words(30 * (number // 2) + 50, 14)}") for number in range(40)]
    with several(2) as run:
        assert found(leakage.find(jobs_of(tmp_path / "two", rows, 9), run)) == found(
            leakage.find(jobs_of(tmp_path / "one", rows, 9))
        )


def test_the_second_look_finds_what_was_left(tmp_path: Path) -> None:
    rows = [(TRAIN, words(0)), (TRAIN, words(60)), (VALIDATION, words(200)), (TEST, f"x {words(0)}"), (VALIDATION, words(0))]
    jobs = jobs_of(tmp_path, rows)
    leaks = leakage.find(jobs)
    assert found(leaks) == ([[0, 3], [4, 3]], [])

    def look(*kept: int) -> leakage.Leaks:
        texts = table_of([[spoken(text)] for _, text in rows])
        again = []
        for name, place in (("train", TRAIN), ("validation", VALIDATION)):
            path = tmp_path / f"{len(kept)}" / name
            write_shard(path, texts.take([row for row in kept if rows[row][0] == place]))
            again.append(leakage.CheckJob(f"{name}-{len(kept)}", path, name, tmp_path / "work"))  # type: ignore[arg-type]
        return leakage.find_left(again, leaks)

    assert found(look(1, 2)) == ([], [])
    assert found(look(0, 1, 2)) == ([[0, 3]], [])
    assert found(look(1, 2, 4, 0)) == ([[0, 3], [4, 3]], [])
    assert leakage.find_left([], leaks).count == 0


GOLDEN = [12125493961903896426, 15774005552861588292, 5174832228962416122]


def test_hashes_never_change() -> None:
    """Written down once: what a killed run left on disk must mean the same to the next."""
    turns = Turns.of(table_of([[spoken(words(0, 14))], [spoken("The cat")], [spoken("")]]))
    hashes, rows = grams.grams_of(turns)
    assert rows.tolist() == [0, 0, 1]
    assert hashes.tolist() == GOLDEN


def test_shared_words_are_quoted() -> None:
    assert leakage.quoted(f"A {words(0)} b", f"c {words(0).upper()} d") == f' ("{words(0)}")'
    assert leakage.quoted(words(0, 12), words(0, 12)) == ""


def test_the_known_rows_of_gsm8k(real: Any_, tmp_path: Path) -> None:
    """Four training questions share 13 words with a test question; with the answers it is seven rows."""
    import json

    rows: list[tuple[int, str, str]] = []
    for place, name in ((TRAIN, "gsm8k/train.jsonl"), (TEST, "gsm8k/test.jsonl")):
        for line in Path(real(name)).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append((place, row["question"], row["answer"]))
    questions = leakage.find(jobs_of(tmp_path / "questions", [(place, question) for place, question, _ in rows]))
    assert (questions.into_test[:, 0] // 3 + 1).tolist() == [21, 407, 1315, 5163]  # lines of the file
    whole = leakage.find(jobs_of(tmp_path / "whole", [(place, f"{question}\n{answer}") for place, question, answer in rows]))
    assert (whole.into_test[:, 0] // 3 + 1).tolist() == [21, 407, 1315, 5004, 5163, 5457, 6842]
