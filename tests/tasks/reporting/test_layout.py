"""Tables for a terminal."""

import pytest

from tasks.reporting.layout import two_columns


@pytest.mark.parametrize("label", ["run", "  leaks into validation", "a label that is far longer than any that tuneflow has"])
def test_texts_begin_in_one_column(label: str) -> None:
    lines = two_columns([("name", "first"), (label, "second " * 30), ("last", "third")])
    column = lines[0].index("first")
    assert {line.index(word) for line in lines for word in line.split() if word in ("first", "third")} == {column}
    seconds = [line for line in lines if "second" in line]
    assert len(seconds) > 1
    assert {line.index("second") for line in seconds} == {column}
    assert max(map(len, lines)) <= 100
