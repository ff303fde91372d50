import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import ftfy
import pytest

from tasks.quickstart.dirt import InstructionCounts, counts_for
from tasks.quickstart.instructions import write_instructions

ROWS = 800
HIDDEN = "\u200b\u2060\ufeff\x07\x0b"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[InstructionCounts, list[dict[str, str]]]:
    path = tmp_path_factory.mktemp("quickstart") / "instructions.json"
    counts = write_instructions(path, ROWS, seed=3)
    return counts, json.loads(path.read_text(encoding="utf-8"))


def mended(row: dict[str, str]) -> dict[str, str]:
    """The row as cleaning should leave it."""
    fixed = {key: ftfy.fix_text(text, uncurl_quotes=False, unescape_html=False) for key, text in row.items()}
    return {key: "".join(c for c in text if c not in HIDDEN).strip() for key, text in fixed.items()}


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row.values())


def shingles(row: dict[str, str]) -> frozenset[tuple[str, ...]]:
    words = " ".join(row.values()).lower().split()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def test_the_counts_are_the_shares_of_the_rows() -> None:
    counts = counts_for(3000)
    assert counts.model_dump() == {
        "rows": 3000, "distinct": 2700, "exact_duplicates": 120, "near_duplicates": 90, "empty_outputs": 60,
        "empty_instructions": 30, "mojibake": 120, "invisible": 90, "whitespace": 150,
    }  # fmt: skip


def test_every_fault_is_there_as_often_as_said(written: tuple[InstructionCounts, list[dict[str, str]]]) -> None:
    counts, rows = written
    whole = [row for row in rows if row["output"].strip() and row["instruction"]]
    found = {
        "rows": len(rows),
        "empty_outputs": sum(not row["output"].strip() for row in rows),
        "empty_instructions": sum(not row["instruction"] for row in rows),
        "exact_duplicates": len(rows) - len({key_of(row) for row in rows}),
        "mojibake": sum(any("Ã" in text or "â€" in text for text in row.values()) for row in rows),
        "invisible": sum(any(c in text for c in HIDDEN for text in row.values()) for row in rows),
        "whitespace": sum(row["output"] != row["output"].strip() for row in whole),
    }
    assert found == {name: getattr(counts, name) for name in found}


def test_mending_gives_nothing_but_distinct_clean_rows(written: tuple[InstructionCounts, list[dict[str, str]]]) -> None:
    counts, rows = written
    usable = [mended(row) for row in rows if row["output"].strip() and row["instruction"]]
    distinct = list({key_of(row): row for row in usable}.values())
    assert len(distinct) == counts.distinct + counts.near_duplicates
    for row in distinct:
        text = "".join(row.values())
        assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in text)
        assert "Ã" not in text
        assert "â€" not in text


def test_only_the_injected_rows_are_near_duplicates(written: tuple[InstructionCounts, list[dict[str, str]]]) -> None:
    counts, rows = written
    usable = [mended(row) for row in rows if row["output"].strip() and row["instruction"]]
    sets = [shingles(row) for row in {key_of(row): row for row in usable}.values()]
    pairs: Counter[bool] = Counter()
    for at, one in enumerate(sets):
        for other in sets[:at]:
            overlap = len(one & other)
            if overlap * 2 > len(one):
                share = overlap / len(one | other)
                assert share < 0.75 or share > 0.9, (one, other)
                pairs[share > 0.9] += 1
    assert pairs[True] == counts.near_duplicates


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_instructions(path, 200, seed)
    one, again, other = (path.read_bytes() for path in paths)
    assert one == again
    assert one != other


def test_the_suffix_chooses_the_form(tmp_path: Path) -> None:
    write_instructions(tmp_path / "a.json", 100, 0)
    write_instructions(tmp_path / "a.jsonl", 100, 0)
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    rows: list[Any] = [json.loads(line) for line in lines]
    assert rows == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("seed", range(10))
def test_the_smallest_set_has_every_fault_too(tmp_path: Path, seed: int) -> None:
    counts = write_instructions(tmp_path / "a.json", 100, seed)
    assert min(counts.model_dump().values()) >= 1
