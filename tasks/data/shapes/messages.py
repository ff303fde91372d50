"""Conversations as lists of {role, content}, as OpenAI writes them."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.values import Fit, Message, Row, cell, match, role_of, text_of, with_system

KIND = "messages"
TASK = "chat"
REQUIRED = {"messages": ("messages", "conversation", "conversations", "dialog", "chat")}
OPTIONAL = {"system": ("system", "system_prompt"), "tools": ("tools",)}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well a column is a list of objects with a role."""
    found = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows, lists=("messages",))
    turns = [turn for row in rows for turn in _turns(row.get(found.mapping["messages"]))] if found else []
    if found is None or (turns and not any("role" in turn for turn in turns)):
        return None
    note = "; loss weights of messages are not used" if any("loss_weight" in turn for turn in turns) else ""
    return Fit(found.mapping, found.confidence, found.reason + note)


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """One message a turn; the calls of an assistant's turn without content become its content, as JSON."""
    turns = _turns(row.get(mapping["messages"]))
    found = [{"role": role_of(turn.get("role")), "content": _content(turn)} for turn in turns]
    return with_system(found, cell(row, mapping, "system"), cell(row, mapping, "tools"))


def _turns(value: object) -> list[Row]:
    return [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []


def _content(turn: Row) -> str:
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(map(_part, content))
    text = text_of(content)
    return text if text or not turn.get("tool_calls") else text_of(turn["tool_calls"])


def _part(part: object) -> str:
    """The text of one part; a part that is no text (an image, say) is written as JSON, so that it is seen."""
    if not isinstance(part, dict):
        return text_of(part)
    found = part.get("text", part.get("value"))
    return text_of(found if isinstance(found, str) else part)
