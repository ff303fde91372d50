"""What the shapes share: from raw values to text, roles and messages."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]  # role and content; `learn` False in an answer that is context only
Row = Mapping[str, Any]
Aliases = Mapping[str, tuple[str, ...]]  # our field -> column names that mean it, its own name first

ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "chatbot": "assistant",
    "model": "assistant", "ai": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "observation": "tool", "function": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool", "tool_result": "tool",
}  # fmt: skip
WEIGHTS = ("loss_weight", "weight", "train")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NEVER = frozenset(("0", "0.0", "false", "no"))


@dataclass(frozen=True)
class Fit:
    """How well a shape fits the columns, and why."""

    mapping: dict[str, str]  # our field -> their column
    confidence: float
    reason: str


def text_of(value: object) -> str:
    """A value as text: nothing for None and NaN, JSON for lists and objects; lone surrogates become U+FFFD."""
    if isinstance(value, str):
        return value if value.isascii() else _whole(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return _whole(json_of(value))


def json_of(value: object) -> str:
    """A value as JSON; what JSON cannot say is written as its text."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no text, circles
        return str(value)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def is_text(value: object) -> bool:
    """True for what may stand for a text: text itself, a number, or nothing."""
    return value is None or isinstance(value, str | int | float)


def is_said(text: str) -> bool:
    """True where a text holds more than blanks."""
    return bool(text) and not text.isspace()


def role_of(value: object) -> str:
    """Our role for theirs; a role that is not known stays as it is."""
    known = ROLES.get(value) if isinstance(value, str) else None
    if known is not None:
        return known
    name = text_of(value).strip().lower()
    return ROLES.get(name, name or "unknown")


def exchange(prompt: str, answer: str, system: str = "") -> list[Message]:
    """One question and its answer, after a system message where there is one."""
    turns: list[Message] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *turns] if is_said(system) else turns


def joined(first: str, second: str) -> str:
    """Two texts with an empty line between them, or the one that says something; "" where none does."""
    if is_said(first):
        return f"{first}\n\n{second}" if is_said(second) else first
    return second if is_said(second) else ""


def with_system(messages: list[Message], system: str, tools: str) -> list[Message]:
    """The messages after a system message of their columns; tools are listed in it: not every template would."""
    if not system and not tools:
        return messages
    listed = f"You may call these tools:\n{tools}" if tools.strip() not in ("", "[]") else ""
    parts = [part for part in (system, listed) if part.strip()]
    if messages and messages[0]["role"] == "system":
        parts = [messages[0]["content"], *parts]
        messages = messages[1:]
    return [{"role": "system", "content": "\n\n".join(parts)}, *messages] if parts else messages


def cell(row: Row, mapping: Mapping[str, str], field: str) -> str:
    """The text of our field in a raw row; "" where the row lacks it."""
    return text_of(row.get(mapping[field])) if field in mapping else ""


def is_learned(turn: Row) -> bool:
    """False where a turn's loss weight is zero: its answer is context, and is not learned."""
    for name in WEIGHTS:
        weight = turn.get(name)
        if weight is not None:
            return weight.strip().lower() not in _NEVER if isinstance(weight, str) else weight != 0
    return True


def match(
    kind: str,
    required: Aliases,
    optional: Aliases,
    *,
    columns: Sequence[str],
    overrides: Mapping[str, str],
    rows: Sequence[Row],
    lists: Sequence[str] = (),
) -> Fit | None:
    """How well the columns carry the fields of a shape, or None where a required one is missing.

    Confidence is the mean over required fields of 1 (its own name, or named by the user) or 0.9 (another name for it),
    times the share of rows whose values have the right type: a list for the fields in `lists`, text for the others.
    """
    mapping: dict[str, str] = {}
    names = {name.strip().lower(): name for name in reversed(columns)}
    for field, aliases in {**required, **optional}.items():
        theirs = overrides.get(field)
        found = theirs if theirs in columns else next((names[alias] for alias in aliases if alias in names), None)
        if found is not None and found not in mapping.values():
            mapping[field] = found
    if not set(required) <= set(mapping):
        return None
    sure = [1.0 if mapping[f] == overrides.get(f) or mapping[f].lower() == f else 0.9 for f in required]
    right = _share_of_right_types(required, mapping, rows, lists)
    pairs = ", ".join(f"{field} from {column!r}" for field, column in mapping.items())
    doubt = "" if right == 1 else f"; in {1 - right:.0%} of the rows looked at a value has another type than expected"
    return Fit(mapping, sum(sure) / len(sure) * right, f"{kind}: {pairs}{doubt}")


def _share_of_right_types(required: Aliases, mapping: Mapping[str, str], rows: Sequence[Row], lists: Sequence[str]) -> float:
    def right(row: Row) -> bool:
        values = {field: row.get(mapping[field]) for field in required}
        return all(v is None or isinstance(v, list) if f in lists else is_text(v) for f, v in values.items())

    return sum(map(right, rows)) / len(rows) if rows else 1.0
