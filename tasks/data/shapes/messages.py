"""Conversations as lists of {role, content}, as OpenAI writes them."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.turns import messages_of, notes_on, turns_of, with_lists
from tasks.data.shapes.values import Fit, Message, Row, cell, match, with_system

KIND = "messages"
TASK = "chat"
REQUIRED = {"messages": ("messages", "conversation", "conversations", "dialog", "chat")}
OPTIONAL = {"system": ("system", "system_prompt"), "tools": ("tools", "functions")}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well a column is a list of objects with a role."""
    found = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=())
    if found is None:
        return None
    rows = with_lists(rows, found.mapping["messages"])
    turns = [turn for row in rows for turn in turns_of(row.get(found.mapping["messages"]))]
    if turns and not any("role" in turn for turn in turns) and "messages" not in overrides:
        return None
    sure = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows, lists=("messages",)) or found
    return Fit(sure.mapping, sure.confidence, sure.reason + notes_on(turns))


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """One message a turn; the tools that an answer calls stand below it, as JSON."""
    found = messages_of(row.get(mapping["messages"]))
    return with_system(found, cell(row, mapping, "system"), cell(row, mapping, "tools"))
