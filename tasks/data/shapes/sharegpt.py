"""Conversations as lists of {from, value}, as ShareGPT writes them."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.turns import messages_of, notes_on, turns_of, with_lists
from tasks.data.shapes.values import Fit, Message, Row, cell, match, with_system

KIND = "sharegpt"
TASK = "chat"
REQUIRED = {"conversations": ("conversations", "conversation", "messages")}
OPTIONAL = {"system": ("system", "system_prompt"), "tools": ("tools", "functions")}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well a column is a list of objects with a `from`."""
    found = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=())
    if found is None:
        return None
    rows = with_lists(rows, found.mapping["conversations"])
    turns = [turn for row in rows for turn in turns_of(row.get(found.mapping["conversations"]))]
    if not any("from" in turn for turn in turns) and "conversations" not in overrides:
        return None
    sure = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows, lists=("conversations",)) or found
    return Fit(sure.mapping, sure.confidence, sure.reason + notes_on(turns))


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """One message a turn."""
    found = messages_of(row.get(mapping["conversations"]))
    return with_system(found, cell(row, mapping, "system"), cell(row, mapping, "tools"))
