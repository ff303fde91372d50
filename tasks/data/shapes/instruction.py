"""Instructions as in Alpaca: instruction, input and output."""

from collections.abc import Mapping, Sequence

from tasks.data.shapes.values import Fit, Message, Row, cell, exchange, joined, match

KIND = "instruction"
TASK = "chat"
REQUIRED = {"instruction": ("instruction",), "output": ("output", "response", "answer", "completion")}
OPTIONAL = {"input": ("input", "context"), "system": ("system", "system_prompt")}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well the columns are an instruction with its output."""
    return match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows)


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """The instruction and its input, an empty line between them, then the output."""
    prompt = joined(cell(row, mapping, "instruction"), cell(row, mapping, "input"))
    return exchange(prompt, cell(row, mapping, "output"), cell(row, mapping, "system"))
