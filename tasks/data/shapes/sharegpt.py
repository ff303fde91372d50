"""Conversations as lists of {from, value}, as ShareGPT writes them."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.values import Fit, Message, Row, cell, match, role_of, text_of, with_system

KIND = "sharegpt"
TASK = "chat"
REQUIRED = {"conversations": ("conversations", "conversation", "messages")}
OPTIONAL = {"system": ("system", "system_prompt"), "tools": ("tools",)}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well a column is a list of objects with a `from`."""
    found = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows, lists=("conversations",))
    turns = [turn for row in rows for turn in _turns(row.get(found.mapping["conversations"]))] if found else []
    return found if any("from" in turn for turn in turns) else None


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """One message a turn."""
    turns = _turns(row.get(mapping["conversations"]))
    found = [{"role": role_of(turn.get("from")), "content": text_of(turn.get("value"))} for turn in turns]
    return with_system(found, cell(row, mapping, "system"), cell(row, mapping, "tools"))


def _turns(value: object) -> list[Row]:
    return [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []
