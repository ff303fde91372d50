"""The page on prepared data and its short forms."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from tasks.contracts import (
    Check,
    Count,
    FinetuneResult,
    Ledger,
    PreparedData,
    QualityComponent,
    StepRecord,
    ValidationReport,
)
from tasks.reporting import data_facts
from tasks.reporting.data_page import render
from tasks.reporting.data_summary import console_table, markdown
from tasks.reporting.examples import dropped_examples, rows_to_show
from tests.tasks.reporting.conftest import HOSTILE
from tests.tasks.reporting.test_report import Page


class Source(BaseModel):
    """A part of a request."""

    source: str
    near_duplicates: float = 0.85


class Request(BaseModel):
    """A request in short."""

    name: str
    data: Source
    seed: int = 0


REQUEST = Request(name="support-bot", data=Source(source="data/tickets/*.jsonl", near_duplicates=0.8))


@pytest.fixture(params=("released", "hostile"))
def data(request: pytest.FixtureRequest) -> PreparedData:
    found: FinetuneResult = request.getfixturevalue(request.param)
    return found.data


@pytest.fixture
def make(quarantine: list[dict[str, Any]]) -> Callable[..., str]:
    def page(data: PreparedData, **options: Any) -> str:
        options = {"name": "support-bot", "request": REQUEST, "tokens_page": "tokens.html", "run_id": "9c2e7a"} | options
        return render(options.pop("name"), data, options.pop("request"), quarantine, **options)

    return page


def flat(page: str) -> str:
    return " ".join(Page(page).text.split())


def test_the_page_is_well_formed_and_its_links_lead_somewhere(data: PreparedData, make: Callable[..., str]) -> None:
    page = Page(make(data))
    assert page.stack == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for _, attrs in page.tags if "href" in attrs]
    assert {str(link)[1:] for link in links if str(link).startswith("#")} <= set(ids)
    assert [link for link in links if not str(link).startswith("#")] == ["tokens.html"]


def test_the_page_loads_nothing_and_is_made_for_both_themes(data: PreparedData, make: Callable[..., str]) -> None:
    text = make(data)
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "img", "object", "embed", "base", "form")]
    assert not [
        name for _, attrs in page.tags for name in attrs if name in ("src", "srcset", "action") or name.startswith("on")
    ]
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)'\"]*)", text))
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and attrs.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="color-scheme" content="light dark">' in text


def test_hostile_text_is_shown_and_never_markup(hostile: FinetuneResult, make: Callable[..., str]) -> None:
    request = Request(name="x", data=Source(source=HOSTILE))
    text = make(hostile.data, name=HOSTILE, request=request, run_id=HOSTILE)
    assert "<script" not in text and "<img" not in text
    page = Page(text)
    assert page.text.count(HOSTILE) >= 10
    assert "今天天气怎么样？🦊" in page.text
    short = markdown(hostile.data, Path("/x/|data.html"))
    assert "<script" not in short and "<img" not in short
    assert "/x/\\|data.html" in short


def test_the_same_data_are_the_same_page(data: PreparedData, make: Callable[..., str]) -> None:
    assert make(data) == make(data)
    assert "Made 20" not in make(data)
    assert "Made 2026-11-23 01:00 UTC." in flat(make(data, generated_at="2026-11-23 01:00 UTC"))


def test_every_check_is_shown_with_what_was_expected_and_where(data: PreparedData, make: Callable[..., str]) -> None:
    text = flat(make(data))
    for check in data.validation.checks:
        for shown in (check.expected, check.found, *check.examples * (not check.passed)):
            assert " ".join(shown.split()) in text


def test_findings_stand_before_what_passed_and_the_worst_first(released: FinetuneResult, make: Callable[..., str]) -> None:
    fatal = Check(name="enough_rows", passed=False, severity="fatal", expected="10 rows", found="3 rows")
    note = Check(
        name="no_email", passed=False, severity="info", expected="no email", found="1 row", examples=("a.jsonl line 4",)
    )
    report = released.data.validation
    data = released.data.model_copy(
        update={"validation": report.model_copy(update={"checks": (note, *report.checks[1:], fatal)})}
    )
    found, passed = data_facts.findings(data.validation)
    assert [check.name for check in found] == ["enough_rows", "answers_present", "encoding", "no_email"]
    assert [check.name for check in passed] == ["language"]
    text = flat(make(data))
    places = [text.index(each) for each in ("✗ fatal", "! fixable", "a.jsonl line 4", "1 check passed")]
    assert places == sorted(places)
    assert "✗ Not fit to train on" in text


def test_the_page_tells_the_whole_story(released: FinetuneResult, make: Callable[..., str]) -> None:
    text = flat(make(released.data))
    for fact in (
        "3,000 rows in, 2,740 kept, 260 dropped; 2,329 to train, 137 to validate, 274 to test; 31,870 tokens to learn.",
        "2 findings of the checks were left to cleaning. 12 rows were longer than a sequence, which cost 444 tokens.",
        "! Ready to train on, with something to look at", "− dropped: Exact duplicate 118 3.9%", "= kept 2,740 91.3%",
        "of these repaired: Repair encoding 41", "3 dropped rows to look at", "2026-01.jsonl line 17",
        "Repairs asked for by the checks: Repair encoding, Strip whitespace.",
        "The columns instruction, input and output are those of the Alpaca form.", "Confidence 94.0%",
        "data/tickets/2026-02.jsonl jsonl 1,000 628.1 KiB 2",
        "line 17: What’s the opposite of hot? line 1204: Add 2 and 3.",
        "Quality: 0.931 of 1", "train 2,329 85.0%", "12 444 none", "Rows of the training split, token by token",
        "10% test, 5% validation: as asked", "256 tokens: the model holds no more", "data.near_duplicates 0.8",
        "1 more setting, all at their defaults", "✓ Clean rows", "MLflow run 9c2e7a",
    ):  # fmt: skip
        assert fact in text, fact
    assert "not in this chain" not in text
    # train: 148,221 tokens of which 31,870 are learned
    assert "train 2,329 2,329 148,221 31,870 116,351 248" in text


def test_a_page_without_tokens_links_to_none(released: FinetuneResult, make: Callable[..., str]) -> None:
    assert "tokens.html" not in make(released.data, tokens_page="")


def test_what_passes_altogether_is_good(released: FinetuneResult, make: Callable[..., str]) -> None:
    passed = tuple(check.model_copy(update={"passed": True}) for check in released.data.validation.checks)
    part = released.data.tokenized.train.model_copy(update={"truncated_rows": 0, "truncated_tokens": 0})
    data = released.data.model_copy(
        update={
            "validation": released.data.validation.model_copy(update={"checks": passed}),
            "tokenized": released.data.tokenized.model_copy(update={"train": part}),
        }
    )
    assert (data_facts.tone(data), data_facts.stamp(data)) == ("good", "Ready to train on")
    assert data_facts.remarks(data) == ["Every check passed and nothing was cut short."]
    assert "All 4 checks passed." in flat(make(data))


def test_rows_lost_as_tokens_are_told(released: FinetuneResult, make: Callable[..., str]) -> None:
    part = released.data.tokenized.test.model_copy(update={"dropped": (Count(reason="nothing_to_learn_after_cut", rows=1),)})
    data = released.data.model_copy(update={"tokenized": released.data.tokenized.model_copy(update={"test": part})})
    assert data_facts.tone(data) == "warn"
    assert data_facts.token_quarantine(data) == "cache/tokenize/quarantine"
    assert "Rows left out for want of something to learn: cache/tokenize/quarantine" in flat(make(data))
    assert data_facts.token_quarantine(released.data) == ""
    assert "1 kept row had nothing to learn as tokens and went too." in data_facts.remarks(data)
    assert "  nothing to learn after cut  1" in console_table("support-bot", data, (), Path("/ws")).splitlines()


def test_the_formula_is_the_weighted_mean() -> None:
    components = (
        QualityComponent(name="answered", share=0.9, weight=3), QualityComponent(name="unique", share=0.5, weight=2),
    )  # fmt: skip
    quality = (3 * 0.9 + 2 * 0.5) / 5
    report = ValidationReport(dataset_sha256="0" * 64, checks=(), quality=quality, components=components, repairs=())
    assert data_facts.formula(report) == "(3 × 0.900 + 2 × 0.500) / 5 = 0.740"


def test_the_numbers_at_a_glance(released: FinetuneResult) -> None:
    tiles = {tile.label: (tile.value, tile.note) for tile in data_facts.tiles(released.data)}
    assert tiles == {
        "Rows kept": ("2,740 of 3,000", "244 repairs by 2 rules"),  # 41 + 203
        "Rows dropped": ("260", "most of them: exact duplicate, 118"),
        "Quality": ("0.931 of 1", "2 of 4 checks passed"),
        "Training rows": ("2,329", "137 to validate, 274 to test"),
        "Tokens to learn": ("31,870", "21.5% of the training split's 148,221"),
        "Tokens cut off": ("444", "of 12 rows, at 256 tokens a sequence"),
    }


def test_the_console_table_fits_and_says_all(data: PreparedData, released: FinetuneResult) -> None:
    lines = console_table("support-bot", data, released.steps[:5], Path("/ws/runs/support-bot")).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert lines[0] == "run                 support-bot"
    assert lines[-3:] == [
        "page                /ws/runs/support-bot/data.html",
        "token by token      /ws/runs/support-bot/tokens.html",
        "4 of 5 steps came from the cache",
    ]
    assert sum(line.lstrip().startswith(("fatal ", "fixable ", "note ")) for line in lines) == sum(
        not check.passed for check in data.validation.checks
    )


def test_the_console_table_of_prepared_data(released: FinetuneResult) -> None:
    cached = tuple(StepRecord(step=s, key=s, cached=True, reason="", seconds=0) for s in ("load", "tokenize"))
    lines = console_table("bot", released.data, cached, Path("/ws")).splitlines()
    for line in (
        "rows in             3,000", "rows kept           2,740", "rows dropped        260", "  exact duplicate   118",
        "  repair encoding   41", "splits              2,329 to train, 137 to validate, 274 to test",
        "tokens to learn     31,870 of 148,221 to train on", "rows cut short      12, 444 tokens lost",
        "quality             0.931 of 1", "checks              2 of 4 passed, the others:",
        "  fixable           Answers present: 69 rows without an answer", "all 2 steps came from the cache",
    ):  # fmt: skip
        assert line in lines, line


def test_markdown_has_the_headline_the_numbers_and_the_findings(released: FinetuneResult) -> None:
    text = markdown(released.data, Path("/ws/runs/support-bot/data.html"))
    assert text.startswith("**3,000 rows in, 2,740 kept, 260 dropped; 2,329 to train")
    assert "| rows kept | 2,740 |" in text
    assert "| fixable | Answers present | an answer in every row | 69 rows without an answer |" in text
    assert "| Language |" not in text
    assert text.endswith("The whole page: /ws/runs/support-bot/data.html\n")


def test_an_empty_ledger_has_a_page(released: FinetuneResult, make: Callable[..., str]) -> None:
    clean = released.data.clean.model_copy(update={"ledger": Ledger(rows_in=0, kept=0)})
    assert "0 rows in, 0 kept, 0 dropped" in flat(make(released.data.model_copy(update={"clean": clean})))


def dropped(folder: Path, name: str, rows: list[tuple[int, str]]) -> None:
    folder.mkdir(exist_ok=True)
    table = pa.table({"row": [row for row, _ in rows], "reason": [reason for _, reason in rows], "line": [0] * len(rows)})
    pq.write_table(table, folder / name)


def test_each_reason_has_examples(tmp_path: Path) -> None:
    dropped(tmp_path / "a", "part-00000.parquet", [(row, "exact_duplicate") for row in range(100)])
    dropped(tmp_path / "a", "part-00001.parquet", [(100, "empty"), (101, "exact_duplicate"), (102, "empty")])
    dropped(tmp_path / "b", "part-00000.parquet", [(7, "nothing_to_learn")])
    rows = dropped_examples([tmp_path / "a", tmp_path / "b"], most=6)
    assert [(row["row"], row["reason"]) for row in rows] == [
        (0, "exact_duplicate"), (1, "exact_duplicate"), (2, "exact_duplicate"), (7, "nothing_to_learn"), (100, "empty"),
        (102, "empty"),
    ]  # fmt: skip
    assert len(dropped_examples([tmp_path / "a", tmp_path / "b"])) == 20
    assert dropped_examples([tmp_path / "nowhere"]) == []
    assert dropped_examples([]) == []


@pytest.mark.parametrize(
    ("cut", "shown"),
    [
        (0, [10, 11, 12, 13, 14, 15]),
        (1, [37, 10, 11, 12, 13, 14]),  # the longest, then the first
        (50, [37, 38, 20, 10, 11, 12]),  # half of the places at most
    ],
)
def test_the_longest_rows_are_shown_first_where_rows_were_cut(tmp_path: Path, cut: int, shown: list[int]) -> None:
    lengths = {37: 64, 38: 64, 20: 63}
    rows = list(range(10, 40))
    table = pa.table({"row": pa.array(rows, pa.int64()), "input_ids": [[1] * lengths.get(row, 5) for row in rows]})
    pq.write_table(table, tmp_path / "part.parquet")
    assert rows_to_show(tmp_path / "part.parquet", cut, most=6) == shown


def test_no_more_tokens_are_shown_than_a_browser_bears(tmp_path: Path) -> None:
    table = pa.table({"row": pa.array(range(10), pa.int64()), "input_ids": [[1] * 100] * 10})
    pq.write_table(table, tmp_path / "part.parquet")
    assert rows_to_show(tmp_path / "part.parquet", 0, most_tokens=350) == [0, 1, 2]
    assert rows_to_show(tmp_path / "part.parquet", 0, most_tokens=50) == [0]


def test_a_row_of_several_sequences_is_shown_once_and_an_empty_shard_shows_none(tmp_path: Path) -> None:
    ids = pa.list_(pa.int32())
    pq.write_table(pa.table({"row": [1, 1, 2], "input_ids": pa.array([[1], [2], [3]], ids)}), tmp_path / "some.parquet")
    assert rows_to_show(tmp_path / "some.parquet", 2) == [1, 2]
    empty = pa.table({"row": pa.array([], pa.int64()), "input_ids": pa.array([], ids)})
    pq.write_table(empty, tmp_path / "none.parquet")
    assert rows_to_show(tmp_path / "none.parquet", 2) == []
