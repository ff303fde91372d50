"""Repairs mend what is broken and nothing else; every row is kept or in the quarantine with its reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.contracts import RawDataset, SourceFile
from tasks.data import cleaning
from tasks.data.repairs import REPAIRS, mend
from tasks.data.rows import RowWriter, schema
from tasks.data.spec import CleaningSpec
from tasks.errors import DatasetError

Clean = Callable[..., Any]

MENDED = {
    "mojibake": ("schÃ¶n â€œquotedâ€\x9d", "schön “quoted”", ["repair_encoding"]),
    "fenced mojibake stays": ("a ```\nprint('Ã©')\n``` b", "a ```\nprint('Ã©')\n``` b", []),
    "html and quotes stay": ("&amp; <b>“x”</b> ﬁ", "&amp; <b>“x”</b> ﬁ", []),
    "french stays": ("À côté, ça va: Âge", "À côté, ça va: Âge", []),
    "control": ("a\x00b\x1bc\td\ne", "abc\td\ne", ["strip_control"]),
    "zero width": ("a\u200bb\ufeffc\u200dd", "abcd", ["strip_control"]),
    "family emoji stays": ("👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥", "👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥", []),
    "persian and sinhala stay": ("می\u200cخواهم ශ්\u200dරී", "می\u200cخواهم ශ්\u200dරී", []),
    "khmer stays": ("ភាសា\u200bខ្មែរ", "ភាសា\u200bខ្មែរ", []),
    "space": ("  a  b\r\n\tc \n", "a  b\n\tc", ["strip_whitespace"]),
    "literal backslash n stays": ("a\\nb", "a\\nb", []),
}


@pytest.mark.parametrize("name", MENDED)
def test_repairs(name: str) -> None:
    text, expected, made = MENDED[name]
    assert mend(text, REPAIRS) == (expected, made)
    assert mend(expected, REPAIRS) == (expected, [])


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
    assert value.quarantine_uri == "mem://clean/quarantine.parquet"


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
    with RowWriter(tmp_path / "rows.parquet", schema()) as writer:
        for index, messages in enumerate(conversations):
            writer.write({"row": index, "file": "f", "line": index + 1, "source": 0, "messages": messages})
    raw = RawDataset(
        name="x", uri="mem://x", sha256="0" * 64, format="json_lines", shape="messages", task="chat", rows=writer.rows,
        bytes=1, columns=("messages",), mapping={}, mapping_confidence=1, mapping_reason="",
        files=(SourceFile(address="f", format="json_lines", sha256="0" * 64, bytes=1, rows=writer.rows),),
    )  # fmt: skip
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    try:
        value = cleaning.clean(raw, spec, tmp_path, out, "mem://out")
    except DatasetError:
        return
    kept, gone = rows_of(out), rows_of(out, "quarantine")
    assert sorted(row["row"] for row in kept + gone) == list(range(len(conversations)))
    assert (value.ledger.kept, sum(counts(value.ledger.dropped).values())) == (len(kept), len(gone))
