"""Plain text, learned whole."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.values import Fit, Message, Row, cell, match

KIND = "text"
TASK = "text"
REQUIRED = {"text": ("text", "content")}
OPTIONAL: dict[str, tuple[str, ...]] = {}
_OF_A_TREE = {"parent_id", "role"}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well a column is a text of its own; single messages of a conversation tree are not."""
    if set(columns) >= _OF_A_TREE and "text" not in overrides:
        return None
    return match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows)


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """One message of role text."""
    return [{"role": "text", "content": cell(row, mapping, "text")}]
