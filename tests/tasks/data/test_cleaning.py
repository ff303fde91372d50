"""Repairs mend what is broken and nothing else; every row is kept or in the quarantine with its reason."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.contracts import RawDataset, Shard, SourceFile
from tasks.data import cleaning
from tasks.data.shards import raw_schema, shard_name, write_shard
from tasks.data.spec import CleaningSpec
from tasks.errors import DatasetError, RequestError

Clean = Callable[..., Any]


def qa(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer}


LONG = " ".join(f"word{number}" for number in range(60))
DIRTY = [
    qa("first question", "first answer"),
    qa("schÃ¶n", "gÃ¶d"),
    qa("con\x00trol", "b"),
    qa(" space", "c "),
    qa("no answer", "\u200b"),
    qa(" ", "no question"),
    qa("first question", "first answer"),
    qa(LONG, LONG),
    qa(LONG, LONG + " more"),
]
OFF = {
    "repair_encoding": False, "strip_control": False, "strip_whitespace": False,
    "exact_duplicates": False, "near_duplicates": 0.0,
}  # fmt: skip


def counts(found: Any) -> dict[str, int]:
    return {count.reason: count.rows for count in found}


def test_ledger_counts_rows_by_reason(clean: Clean, write: Clean, rows_of: Clean) -> None:
    value, out = clean(write(DIRTY))
    dropped = {"empty_answer": 1, "empty_prompt": 1, "exact_duplicate": 1, "near_duplicate": 1}
    assert (value.ledger.rows_in, value.ledger.kept, counts(value.ledger.dropped)) == (9, 5, dropped)
    # The row whose answer is one zero-width space was mended before it was dropped.
    assert counts(value.ledger.repaired) == {"repair_encoding": 1, "strip_control": 2, "strip_whitespace": 1}
    gone = {row["line"]: row["reason"] for row in rows_of(out, "quarantine")}
    assert gone == {5: "empty_answer", 6: "empty_prompt", 7: "exact_duplicate", 9: "near_duplicate"}
    assert [row["line"] for row in rows_of(out)] == [1, 2, 3, 4, 8]
    assert rows_of(out)[1]["messages"][0]["content"] == "schön"
    assert value.quarantine_uri == "mem://clean/quarantine"


EFFECTS = {"repair_encoding": 1, "strip_control": 2, "strip_whitespace": 1}


@pytest.mark.parametrize("option", OFF)
def test_each_option_off_is_off(option: str, clean: Clean, write: Clean) -> None:
    path = write(DIRTY)
    on, _ = clean(path)
    off, _ = clean(path, cleaning=CleaningSpec.model_validate({option: OFF[option]}))
    assert off.ledger != on.ledger
    if option in EFFECTS:
        assert counts(off.ledger.repaired) == {k: v for k, v in counts(on.ledger.repaired).items() if k != option}
    else:
        name = option.removesuffix("s")
        # With exact duplicates off, the near-duplicate rule sees them.
        expected = {"exact_duplicate": 0, "near_duplicate": 2} if name == "exact_duplicate" else {"near_duplicate": 0}
        assert {key: counts(off.ledger.dropped).get(key, 0) for key in expected} == expected


HTML = [qa("What is <b>bold</b> here?", "<p>A &amp; B</p>"), *(qa(f"plain {n}", f"text {n}") for n in range(3))]
MAIL = [qa("Write to ann.lee@firma.de", "I did"), *(qa(f"plain {n}", f"text {n}") for n in range(3))]
WRITTEN = [qa(f"first line {n}\\nsecond line", f"text {n}") for n in range(4)]
MENDING = {
    "html": (HTML, {"html": "strip"}, "strip_html", 1),
    "personal_data": (MAIL, {"personal_data": "redact"}, "redact_email", 1),
    "personal_kinds": (MAIL, {"personal_data": "redact", "personal_kinds": ["email"]}, "redact_email", 1),
    "unescape_newlines": (WRITTEN, {"unescape_newlines": True}, "unescape_newlines", 4),
}
NOT_MENDED = {
    "html": {}, "personal_data": {"personal_data": "flag"}, "unescape_newlines": {"unescape_newlines": False},
    "personal_kinds": {"personal_data": "redact", "personal_kinds": ["phone"]},
}  # fmt: skip


@pytest.mark.parametrize("option", MENDING)
def test_what_is_mended_on_request(option: str, clean: Clean, write: Clean, rows_of: Clean) -> None:
    rows, asked, repair, count = MENDING[option]
    path = write(rows)
    value, out = clean(path, cleaning=CleaningSpec.model_validate(asked))
    assert counts(value.ledger.repaired) == {repair: count}
    off, plain = clean(path, cleaning=CleaningSpec.model_validate(NOT_MENDED[option]))
    assert counts(off.ledger.repaired) == {}
    assert rows_of(plain)[0]["messages"][0]["content"] == rows[0]["question"] != rows_of(out)[0]["messages"][0]["content"]
    assert value.sha256 != off.sha256


def test_names_need_a_model() -> None:
    with pytest.raises(ValidationError, match="personal_kinds names person, which only a model can find"):
        CleaningSpec(personal_kinds=["person"])


def test_presidio_that_is_not_installed_is_named_before_any_row_is_mended(clean: Clean, write: Clean) -> None:
    spec = CleaningSpec(personal_data="redact", personal_kinds=["person"], names_model="en_core_web_lg")
    with pytest.raises(RequestError, match=r"tuneflow\[presidio\]"):
        clean(write(MAIL), cleaning=spec)


def test_everything_off_keeps_every_usable_row_as_it_was(clean: Clean, write: Clean, rows_of: Clean) -> None:
    value, out = clean(write(DIRTY), cleaning=CleaningSpec.model_validate(OFF))
    assert counts(value.ledger.dropped) == {"empty_prompt": 1}
    assert value.ledger.repaired == ()
    contents = [row["messages"][0]["content"] for row in rows_of(out)]
    assert contents == [row["question"] for row in DIRTY if row["question"] != " "]


def test_same_prompt_same_group(clean: Clean, write: Clean, rows_of: Clean) -> None:
    rows = [qa("Who?", "me"), qa("who? ", "you"), qa("Why?", "so")]
    groups = [row["group"] for row in rows_of(clean(write(rows))[1])]
    assert groups[0] == groups[1] != groups[2]
    longer = [row["group"] for row in rows_of(clean(write([*rows, qa("New?", "x")]))[1])]
    assert longer[:3] == groups


def test_similar_rows_share_a_group(clean: Clean, write: Clean, rows_of: Clean) -> None:
    other = LONG.replace("word30", "changed").replace("word10", "altered")
    groups = [row["group"] for row in rows_of(clean(write([qa(LONG, "one"), qa(other, "two"), qa("else", "three")]))[1])]
    assert groups[0] == groups[1] != groups[2]


def test_nothing_left_is_an_error(clean: Clean, write: Clean) -> None:
    conversations = [{"messages": [{"role": "narrator", "content": "x"}, {"role": "assistant", "content": "y"}]}] * 2
    with pytest.raises(DatasetError, match=r"cleaning left no row of 2 \(unknown_role 2\)"):
        clean(write(conversations))


CHARACTERS = st.one_of(
    st.sampled_from(["", " ", "a", "b\r\n", "\x00", "\u200b", "\u200d", "Ã©", "\ufffd", "日本語", "```", "👨\u200d👩", "<s>"]),
    st.characters(exclude_categories=("Cs",)),
)
CONTENT = st.lists(CHARACTERS, max_size=6).map("".join)
ROLE = st.sampled_from(["user", "assistant", "system", "tool", "text", "narrator"])
CONVERSATION = st.lists(st.fixed_dictionaries({"role": ROLE, "content": CONTENT}), max_size=4)
SPECS = st.builds(
    CleaningSpec,
    repair_encoding=st.booleans(),
    strip_control=st.booleans(),
    strip_whitespace=st.booleans(),
    exact_duplicates=st.booleans(),
    near_duplicates=st.sampled_from([0.0, 0.3, 0.85, 1.0]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversations=st.lists(CONVERSATION, min_size=1, max_size=8), spec=SPECS)
def test_the_ledger_always_balances(
    conversations: list[list[dict[str, str]]], spec: CleaningSpec, tmp_path: Path, rows_of: Clean
) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    rows = [
        {"file": "f", "line": index + 1, "source": 0, "messages": [{"learn": True, **turn} for turn in messages]}
        for index, messages in enumerate(conversations)
    ]
    shards = []
    for at in range(0, len(rows), 3):
        some = rows[at : at + 3]
        shards.append(Shard(name=shard_name(0, at), rows=len(some), sha256="0" * 64))
        write_shard(tmp_path / "rows" / shards[-1].name, pa.Table.from_pylist(some, schema=raw_schema()))
    raw = RawDataset(
        name="x", uri="mem://x", sha256="0" * 64, format="json_lines", shape="messages", task="chat", rows=len(rows),
        bytes=1, columns=("messages",), mapping={}, mapping_confidence=1, mapping_reason="", shards=tuple(shards),
        files=(SourceFile(address="f", format="json_lines", sha256="0" * 64, bytes=1, rows=len(rows)),),
    )  # fmt: skip
    out = tmp_path / "out"
    try:
        value = cleaning.clean(raw, spec, tmp_path, out, "mem://out")
    except DatasetError:
        return
    kept, gone = rows_of(out), rows_of(out, "quarantine")
    assert sorted(row["row"] for row in kept + gone) == list(range(len(conversations)))
    assert (value.ledger.kept, sum(counts(value.ledger.dropped).values())) == (len(kept), len(gone))
