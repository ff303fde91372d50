"""What the shapes of conversations share: from lists of turns, however their keys are called, to messages."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tasks.data.shapes.values import WEIGHTS, Message, Row, is_learned, json_of, role_of, text_of

_SPEAKERS = ("role", "from")
_CONTENTS = ("content", "value", "text")
_CALLS = ("tool_calls", "function_call")
_USED = frozenset((*_SPEAKERS, *_CONTENTS, *_CALLS, *WEIGHTS))


def listed(value: object) -> list[Any] | None:
    """A list, or what a text that holds a JSON list says; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def with_lists(rows: Sequence[Row], column: str) -> list[Row]:
    """The rows with a list in a column where the list was written as text."""
    found = [(row, listed(row.get(column))) for row in rows]
    return [row if turns is None else {**row, column: turns} for row, turns in found]


def turns_of(value: object) -> list[Row]:
    """The turns of a conversation; what is no object keeps its place, as a turn of nobody known."""
    return [turn if isinstance(turn, dict) else {"role": "unknown", "content": turn} for turn in listed(value) or ()]


def messages_of(value: object) -> list[Message]:
    """One message a turn; an answer whose loss weight is zero has `learn` False."""
    turns = value if isinstance(value, list) else turns_of(value)
    return [_message(turn) if isinstance(turn, dict) else {"role": "unknown", "content": text_of(turn)} for turn in turns]


def _message(turn: Row) -> Message:
    if len(turn) == 2:  # the common case, in a third of the time: nothing but who and what
        speaker, said = turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")
        if type(speaker) is str and type(said) is str:
            return {"role": role_of(speaker), "content": said if said.isascii() else text_of(said)}
    role = role_of(_first(turn, _SPEAKERS))
    message: Message = {"role": role, "content": _content(turn)}
    if role == "assistant" and not is_learned(turn):
        message["learn"] = False
    return message


def notes_on(turns: Iterable[Row]) -> str:
    """What of the turns is not used as it stands, as an end of the sentence that explains the fit."""
    unused: Counter[str] = Counter()
    context = halves = others = 0
    for turn in turns:
        unused.update(str(name) for name in turn if name not in _USED and turn[name] not in (None, "", [], {}))
        weight = next((turn[name] for name in WEIGHTS if turn.get(name) is not None), None)
        answers = role_of(_first(turn, _SPEAKERS)) == "assistant"
        context += answers and not is_learned(turn)
        halves += answers and isinstance(weight, float) and weight not in (0.0, 1.0)
        others += not answers and weight is not None and is_learned(turn)
    notes = [
        f"{context} answers of weight 0 are context, not learned" if context else "",
        f"{halves} answers of weights other than 0 and 1 count whole" if halves else "",
        f"{others} turns of others have a weight, but only answers are learned" if others else "",
        f"of the turns not used: {', '.join(unused)}" if unused else "",
    ]
    return "".join(f"; {note}" for note in notes if note)


def _first(turn: Row, names: Sequence[str]) -> object:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _content(turn: Row) -> str:
    """What is said, and below it, as JSON, the calls of tools that are made."""
    found = _first(turn, _CONTENTS)
    said = "".join(map(_part, found)) if isinstance(found, list) else text_of(found)
    calls = [turn[name] for name in _CALLS if turn.get(name)]
    return "\n".join([*([said] if said else []), *(text_of(call) for call in calls)]) if calls else said


def _part(part: object) -> str:
    """The text of one part; a part that is no text (an image, say) is written as JSON, so that it is seen."""
    if not isinstance(part, dict):
        return text_of(part)
    found = _first(part, ("text", "value"))
    return text_of(found if isinstance(found, str) else json_of(part))
