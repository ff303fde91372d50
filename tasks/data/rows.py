"""What is read out of one conversation."""

from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]  # role, content, and learn: False for an answer that is context alone
KNOWN_ROLES = frozenset(("system", "user", "assistant", "tool", "text"))


def last_answer(messages: Sequence[Message]) -> int:
    """The index of the last assistant turn (or plain text); -1 where there is none."""
    found = [index for index, message in enumerate(messages) if message["role"] in ("assistant", "text")]
    return found[-1] if found else -1


def answer_of(messages: Sequence[Message]) -> str:
    """The content of the last answer, or all of a plain text."""
    index = last_answer(messages)
    return messages[index]["content"] if index >= 0 else ""


def prompt_of(messages: Sequence[Message]) -> str:
    """Everything before the last answer but the system's message."""
    before = messages[: max(last_answer(messages), 0)]
    return "\n".join(message["content"] for message in before if message["role"] != "system")


def normalized(text: str) -> str:
    """Lower case with single spaces: what counts as the same content."""
    return " ".join(text.lower().split())
