"""Texts with a label, which is the answer."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.values import Fit, Message, Row, cell, exchange, match

KIND = "text_label"
TASK = "classification"
REQUIRED = {"text": ("text", "sentence"), "label": ("label", "intent", "category")}
OPTIONAL = {"system": ("system", "system_prompt")}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well the columns are a text with its label."""
    return match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows)


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """The text, then its label."""
    return exchange(cell(row, mapping, "text"), cell(row, mapping, "label"), cell(row, mapping, "system"))
