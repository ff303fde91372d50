"""Near-duplicates are found by content, not by preamble, in any script, and the same ones however the work is done."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.dedup import Alike, find_alike
from tasks.data.near import verify
from tasks.data.near.candidates import RELATED
from tasks.data.running import in_turn, several

WORDS = [f"w{number}" for number in range(100)]
Rows = Sequence[tuple[str, str]]  # whole, answer


def changed(*places: int) -> str:
    return " ".join(f"x{index}" if index in places else word for index, word in enumerate(WORDS))


def write(rows: Rows, folder: Path, size: int = 1000, step: int = 1) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for first in range(0, len(rows), size):
        some = rows[first : first + size]
        numbers = [(first + index) * step for index in range(len(some))]
        columns = {"row": numbers, "whole": [row[0] for row in some], "answer": [row[1] for row in some]}
        shards.append(folder / f"in-{first:05d}.parquet")
        schema = pa.schema([("row", pa.int64()), ("whole", pa.string()), ("answer", pa.string())])
        pq.write_table(pa.table(columns, schema=schema), shards[-1])
    return shards


@pytest.fixture
def search(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[int, int], dict[int, int]]]:
    """Which row repeats which, and the group of each row that has one."""

    def run(texts: Iterable[str], answers: Iterable[str] | None = None, threshold: float = 0.4, size: int = 1000) -> Any:
        texts = list(texts)
        rows = list(zip(texts, texts if answers is None else answers, strict=True))
        folder = tmp_path_factory.mktemp("search")
        return tables(find_alike(write(rows, folder / "in", size), folder / "near", threshold))

    return run


def tables(alike: Alike) -> tuple[dict[int, int], dict[int, int]]:
    lines = pq.read_table(alike.path).to_pylist()
    assert [line["row"] for line in lines] == sorted({line["row"] for line in lines})
    assert all((line["duplicate_of"] is None) != (line["group"] is None) for line in lines)
    repeats = {line["row"]: line["duplicate_of"] for line in lines if line["duplicate_of"] is not None}
    groups = {line["row"]: line["group"] for line in lines if line["group"] is not None}
    assert (alike.duplicates, alike.grouped, alike.groups) == (len(repeats), len(groups), len(set(groups.values())))
    return repeats, groups


# A text of n words has 2n - 1 words and pairs; a changed word within takes 3 of them: of 199, 196 common of 202, 184 of 214.
@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.3, {1: 0, 2: 0}), (0.85, {1: 0, 2: 0}), (0.86, {1: 0}), (0.97, {1: 0}), (0.971, {})]
)
def test_threshold_is_exact(search: Any, threshold: float, expected: dict[int, int]) -> None:
    texts = [changed(), changed(50), changed(10, 20, 30, 40, 50)]  # 196/202 = 0.9703 and 184/214 = 0.8598 of the first
    repeats, groups = search(texts, ["same"] * 3, threshold)
    assert repeats == expected
    assert groups == ({} if len(expected) == 2 else dict.fromkeys({0, 1, 2} - set(expected), 0))


def test_answers_must_be_alike_too(search: Any) -> None:
    texts = [changed() + " yes", changed() + " no"]
    assert search(texts, ["yes", "no"])[0] == {}
    assert search(texts, ["yes", "yes"])[0] == {1: 0}
    ten = " ".join(WORDS[:10])  # 8 common words of 11, then 7 of 11
    assert search(texts, [ten, " ".join(WORDS[:8]) + " other"])[0] == {1: 0}
    assert search(texts, [ten, " ".join(WORDS[:7]) + " other"])[0] == {}


def test_in_short_rows_every_word_counts(search: Any) -> None:
    short = " ".join(WORDS[:29])
    assert search([short, short + "x", short.upper(), f"  {short}\n"])[0] == {2: 0, 3: 0}
    long = " ".join(WORDS[:30])
    assert search([long, long + "x", long.upper()])[0] == {1: 0, 2: 0}
    assert search(["Reverse: a b", "reverse:  A B", "reverse: b a"])[0] == {1: 0}


def test_shared_preamble_is_no_duplicate(search: Any) -> None:
    texts = [f"{changed()} task {n} do {n}a {n}b {n}c {n}d" for n in range(150)]
    assert search(texts, ["same"] * 150) == ({}, {})
    assert len(search(texts[:100], ["same"] * 100)[0]) == 99  # rare enough to count


def test_rows_without_anything_rare_are_alike_where_they_are_equal(search: Any) -> None:
    texts = [changed()] * 100 + [changed() + " more"] * 150 + [changed().upper(), changed() + "\tmore"]
    repeats, groups = search(texts)
    assert repeats == {**dict.fromkeys(range(1, 100), 0), **dict.fromkeys(range(101, 250), 100), 250: 0, 251: 100}
    assert groups == {}


def test_chain_repeats_what_is_kept(search: Any) -> None:
    """Each text is like the next but not like the one after it: of 199 words and pairs 15 changed words take 45."""
    chain = [changed(*range(1, last, 2)) for last in (0, 31, 61, 91)]
    assert search(chain, ["same"] * 4, 0.6)[0] == {1: 0, 3: 2}


def test_chinese(search: Any) -> None:
    text = "".join(chr(0x4E00 + number) for number in range(100))
    near = text[:50] + "龙" + text[51:]
    assert search([text, near, "".join(random.Random(1).sample(text, 100)).replace("一", "二")], ["好"] * 3)[0] == {1: 0}


def test_empty_texts_are_alike_to_nothing(search: Any) -> None:
    assert search(["", "", "a", " \n", "b"], ["", "", "a", "", ""]) == ({}, {})
    assert search(["", "", "a", "a"], ["", "", "a", "b"]) == ({}, {2: 2, 3: 2})
    assert search([]) == ({}, {})
    assert search(["a", "A"])[0] == {1: 0}


def test_groups_stop_growing_at_a_hundredth_of_the_rows(search: Any) -> None:
    texts = [f"{' '.join(WORDS[:25])} {n} {n}" for n in range(40)]  # short: kept, but alike
    repeats, groups = search(texts)
    assert repeats == {}
    assert Counter(groups.values()) == {0: 10, 10: 10, 20: 10, 30: 10}


def brute_force(rows: Rows, threshold: float) -> tuple[dict[int, int], dict[int, int]]:
    """All pairs, with sets of strings."""

    def features(text: str) -> tuple[int, set[str]]:
        words = text.lower().split()
        return len(words), {*words, *(f"{one} {two}" for one, two in pairwise(words))}

    def share(one: set[str], other: set[str]) -> float:
        return len(one & other) / len(one | other) if one | other else 0.0

    wholes = [features(whole) for whole, _ in rows]
    answers = [set(answer.lower().split()) for _, answer in rows]
    often = Counter(feature for _, some in wholes for feature in some)
    rare = [{feature for feature in some if often[feature] <= max(100, 0.002 * len(rows))} for _, some in wholes]
    repeats: dict[int, int] = {}
    related = []
    for later in range(len(rows)):
        for earlier in range(later):
            whole, answer = share(wholes[later][1], wholes[earlier][1]), share(answers[later], answers[earlier])
            alike = share(rare[later], rare[earlier])
            near = min(wholes[later][0], wholes[earlier][0]) >= verify.LONG and min(alike, whole) >= threshold
            if ((near and answer >= max(verify.ANSWER, threshold)) or whole == answer == 1) and earlier not in repeats:
                repeats.setdefault(later, earlier)
            if alike >= RELATED:
                related.append((later, earlier))
    group = list(range(len(rows)))
    for later, earlier in related:
        one, two = sorted((group[later], group[earlier]))
        together = sum(place in (one, two) for place in group)
        if one != two and later not in repeats and earlier not in repeats and together <= max(10, len(rows) // 100):
            group = [one if place == two else place for place in group]
    sizes = Counter(group)
    return repeats, {row: place for row, place in enumerate(group) if sizes[place] > 1}


@st.composite
def alike_rows(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Rows that were made from a few by exchanging some words."""
    source = random.Random(draw(st.integers(0, 2**32)))
    bases = [[source.choice(WORDS) + str(base) for _ in range(size)] for base, size in enumerate((0, 1, 2, 12, 29, 35, 60))]
    rows = []
    for _ in range(draw(st.integers(0, 60))):
        base = source.choice(bases)
        words = list(base)
        for _ in range(source.choice((0, 0, 1, 2, 4))):
            if words:
                words[source.randrange(len(words))] = source.choice(WORDS)
        answer = words[-source.choice((0, 1, 5, 10)) :]
        text = source.choice((" ", "\n", "  ")).join(words)
        rows.append((source.choice((text, text, text.upper())), " ".join(answer)))
    return rows


# With a threshold of 0.75 no pair that counts is missed: by chance 1 of 10**8.
@settings(max_examples=15, deadline=None, derandomize=True)
@given(rows=alike_rows(), size=st.sampled_from((7, 100)))
def test_it_finds_what_comparing_all_pairs_finds(
    rows: list[tuple[str, str]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    assert tables(find_alike(write(rows, folder / "in", size), folder / "near", 0.75)) == brute_force(rows, 0.75)


def sample(count: int = 400) -> list[tuple[str, str]]:
    """Rows of which a third resemble an earlier one; some say the same beside a few words, some share a preamble."""
    source = random.Random(3)
    rows: list[tuple[str, str]] = []
    for number in range(count):
        words = [source.choice(WORDS) + str(source.randrange(20)) for _ in range(source.randrange(45))]
        if rows and number % 3 == 0:
            words = source.choice(rows)[0].split()
            for _ in range(len(words) // 12):
                words[source.randrange(len(words))] = source.choice(WORDS)
        rows.append((" ".join(words), " ".join(words[-12:])))
    return rows


def test_the_result_does_not_depend_on_shards_or_processes(tmp_path: Path) -> None:
    found = set()
    with several(2) as two:
        for number, (size, run) in enumerate([(1000, in_turn), (61, in_turn), (100, two)]):
            alike = find_alike(write(sample(), tmp_path / f"in{number}", size, step=3), tmp_path / f"near{number}", 0.4, run)
            found.add(alike.path.read_bytes())
            assert [path.name for path in alike.path.parent.iterdir() if path.is_file()] == ["alike.parquet"]
    assert len(found) == 1
    assert alike.duplicates > 50
    assert {line["row"] % 3 for line in pq.read_table(alike.path).to_pylist()} == {0}


def test_rows_added_later_do_not_change_what_earlier_rows_repeat(search: Any) -> None:
    texts = [whole for whole, _ in sample()]
    repeats, _ = search(texts)
    fewer, _ = search(texts[:200])
    assert fewer == {row: other for row, other in repeats.items() if row < 200}


class KilledError(Exception):
    """What a test throws in place of a kill."""


def interrupted(after: int) -> Any:
    """Work that ends after so many pieces."""
    left = iter(range(after))

    def run(function: Any, jobs: Sequence[Any]) -> Any:
        for job in jobs:
            if next(left, None) is None:
                raise KilledError
            yield function(job)

    return run


@pytest.mark.parametrize("after", [6, 14, 40, 69])
def test_a_killed_search_goes_on(tmp_path: Path, after: int) -> None:
    shards = write(sample(), tmp_path / "in", 100)
    expected = find_alike(shards, tmp_path / "whole", 0.4).path.read_bytes()
    with pytest.raises(KilledError):
        find_alike(shards, tmp_path / "near", 0.4, interrupted(after))
    told: list[tuple[int, int]] = []
    worked = Counter[str]()

    def counting(function: Any, jobs: Sequence[Any]) -> Any:
        for job in jobs:
            worked[function.__name__] += 1
            yield function(job)

    alike = find_alike(shards, tmp_path / "near", 0.4, counting, lambda done, total: told.append((done, total)))
    assert alike.path.read_bytes() == expected
    assert told[-1][0] == told[-1][1] == 6 * 4 + 43
    assert worked["_work"] == told[-1][1] - (after - 4)  # the first 4 read the shards' hashes
    assert worked["sha256_file"] == 4


# Killed at the last shard whose pairs are sought, or at the last one whose pairs are verified: what is of no more use is gone.
@pytest.mark.parametrize("kind", ["signatures", "keys", "bands", "sets", "counts", "pairs", "sent", "verified", "done"])
def test_lost_and_damaged_files_are_made_again(tmp_path: Path, kind: str) -> None:
    early = kind in {"signatures", "keys", "bands"}
    shards = write(sample(), tmp_path / "in", 100)
    expected = find_alike(shards, tmp_path / "whole", 0.4).path.read_bytes()
    with pytest.raises(KilledError):
        find_alike(shards, tmp_path / "near", 0.4, interrupted(4 + (4 if early else 6) * 4 + 43 - 1))
    lost, damaged = sorted(next((tmp_path / "near").glob(f"*/{kind}")).iterdir())[:2]
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert find_alike(shards, tmp_path / "near", 0.4).path.read_bytes() == expected


def test_what_is_found_is_kept_until_the_input_changes(tmp_path: Path) -> None:
    shards = write(sample(), tmp_path / "in", 100)
    first = find_alike(shards, tmp_path / "near", 0.4)
    assert find_alike(shards, tmp_path / "near", 0.4, interrupted(4)) == first  # nothing but the shards' hashes is computed
    with pytest.raises(KilledError):
        find_alike(shards, tmp_path / "near", 0.5, interrupted(4))
    write([*sample(399), ("another", "row")], tmp_path / "in", 100)
    with pytest.raises(KilledError):
        find_alike(shards, tmp_path / "near", 0.4, interrupted(4))
    first.path.write_bytes(b"damaged")
    assert find_alike(shards, tmp_path / "near", 0.4).path.stat().st_size > 100
