"""What the stage makes of real data sets; the numbers were counted apart, with a few lines of plain Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.data import checks
from tasks.data.spec import CleaningSpec, ValidationSpec
from tasks.errors import DatasetError

Any_ = Callable[..., Any]
Real = Callable[[str], str]


def dropped(value: Any) -> dict[str, int]:
    return {count.reason: count.rows for count in value.ledger.dropped}


def repaired(value: Any) -> dict[str, int]:
    return {count.reason: count.rows for count in value.ledger.repaired}


def test_gsm8k(real: Real, load: Any_, clean: Any_, tmp_path: Path) -> None:
    path = real("gsm8k/train.jsonl")
    raw, rows = load(path)
    assert (raw.rows, raw.shape, raw.task, raw.format) == (7473, "question_answer", "qa", "json_lines")
    report = checks.validate(raw, ValidationSpec(), CleaningSpec(), rows, tmp_path / "checked")
    assert (report.quality, report.repairs) == (1.0, ("strip_control",))
    value, _ = clean(path)
    assert (value.ledger.kept, dropped(value)) == (7473, {})


def test_alpaca_loses_its_exact_duplicates(real: Real, clean: Any_) -> None:
    value, _ = clean(real("chat_formats/alpaca_en_demo.json"))
    assert (value.ledger.rows_in, value.ledger.kept, dropped(value)) == (999, 985, {"exact_duplicate": 14})


def test_chinese_alpaca_stays_intact(real: Real, clean: Any_, rows_of: Any_) -> None:
    path = real("chat_formats/alpaca_zh_demo.json")
    value, out = clean(path)
    source = json.loads(Path(path).read_text())
    unique = {json.dumps([row["instruction"], row["input"], row["output"]]) for row in source}
    assert value.ledger.kept == len(unique) == 992
    assert value.ledger.repaired == ()
    assert rows_of(out)[0]["messages"][1]["content"] == source[0]["output"]


def test_tool_rows_that_share_a_prelude_are_kept(real: Real, clean: Any_) -> None:
    value, _ = clean(real("gpteacher/toolformer.json"))
    assert value.ledger.rows_in == 7673
    near = dropped(value)["near_duplicate"]  # of the 7,673 rows nearly all share a prelude
    assert value.ledger.kept == 7673 - sum(dropped(value).values())
    assert 0.1 < near / 7673 < 0.2


def test_code_stays_as_it_is(real: Real, clean: Any_, rows_of: Any_) -> None:
    path = real("gpteacher/codegen.json")
    source = json.loads(Path(path).read_text())
    value, out = clean(path)
    changed = sum(row["messages"][1]["content"] != source[row["row"]]["response"].strip() for row in rows_of(out))
    assert value.ledger.kept + dropped(value)["near_duplicate"] == 4535
    assert changed <= 1  # it held a mis-decoded degree sign


SHAPES = {
    "chat_formats/sharegpt.json": ("sharegpt", "chat", 500),
    "chat_formats/glaive_toolcall_en_demo.json": ("sharegpt", "chat", 300),
    "chat_formats/v1_sft_demo.jsonl": ("messages", "chat", 500),
    "chat_formats/c4_demo.jsonl": ("text", "text", 300),
    "alpaca_cot/qasc_train.json": ("instruction", "chat", 1084),
    "clinc/data_full.json": ("text_label", "classification", 15000),
    "oasst/en_100_message.jsonl": ("oasst_tree", "chat", 100),
    "oasst/en_100_tree.jsonl": ("oasst_tree", "chat", 100),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, real: Real, load: Any_) -> None:
    raw, _ = load(real(name))
    assert (raw.shape, raw.task, raw.rows) == SHAPES[name]
    assert raw.mapping_confidence == 1.0


def test_preference_pairs_are_refused(real: Real, load: Any_) -> None:
    with pytest.raises(DatasetError, match="preference pairs"):
        load(real("chat_formats/dpo_en_demo.json"))


def test_line_breaks_that_were_written_are_line_breaks(real: Real, clean: Any_, rows_of: Any_) -> None:
    value, out = clean(real("alpaca_cot/ecqa_train.json"), maximum_rows=500)
    assert repaired(value)["unescape_newlines"] == 500
    assert not any("\\n" in row["messages"][0]["content"] for row in rows_of(out))
    off, _ = clean(real("alpaca_cot/ecqa_train.json"), maximum_rows=500, cleaning=CleaningSpec(unescape_newlines=False))
    assert "unescape_newlines" not in repaired(off)
