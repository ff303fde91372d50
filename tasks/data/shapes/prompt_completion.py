"""Prompts and their completions, learned without a chat template."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.values import Fit, Message, Row, cell, exchange, match

KIND = "prompt_completion"
TASK = "completion"
REQUIRED = {"prompt": ("prompt", "input"), "completion": ("completion", "response", "output", "answer", "target")}
OPTIONAL = {"system": ("system", "system_prompt")}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well the columns are a prompt with its completion."""
    return match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows)


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """The prompt, then the completion."""
    return exchange(cell(row, mapping, "prompt"), cell(row, mapping, "completion"), cell(row, mapping, "system"))
