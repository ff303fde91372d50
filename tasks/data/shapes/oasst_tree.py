"""Trees of messages as Open Assistant writes them, a tree a row: one conversation each, along the best-ranked replies."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.data.shapes.values import Fit, Message, Row, match, role_of, text_of

KIND = "oasst_tree"
TASK = "chat"
REQUIRED = {"prompt": ("prompt",)}
OPTIONAL: dict[str, tuple[str, ...]] = {}
READS = frozenset(("text", "role", "replies", "parent_id", "deleted", "rank", "review_result"))
_OF_A_ROOT = frozenset(("message_id", "role", "text", "replies"))  # a row that is itself the first message
_LAST = float("inf")


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well the rows are trees: a column `prompt` with replies, or first messages with replies of their own."""
    if set(columns) >= _OF_A_ROOT:
        mapping, what = {"text": "text"}, "text from 'text', replies from 'replies'"
        right = [isinstance(row.get("replies"), list | None) and row.get("parent_id") is None for row in rows]
        if not any(row.get("replies") for row in rows):
            return None
    else:
        found = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=())
        if found is None or not rows:
            return None
        mapping, what = found.mapping, "prompt and its replies from {!r}".format(found.mapping["prompt"])
        right = [_is_message(row.get(mapping["prompt"])) for row in rows]
        if not any(right):
            return None
    share = sum(right) / len(right)
    doubt = "" if share == 1 else f"; {1 - share:.0%} of the rows looked at are no trees"
    return Fit(mapping, share, f"{KIND}: {what}{doubt}{said_of([root_of(row, mapping) for row in rows])}")


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """The first message and the best-ranked reply to each, down to the last answer; none of a tree without messages."""
    path = best_path(root_of(row, mapping))
    return [{"role": role_of(message.get("role")), "content": text_of(message.get("text"))} for message in path]


def root_of(row: Row, mapping: Mapping[str, str]) -> Row | None:
    """The first message of a row's tree; None where the row is a reply within another tree, or no tree."""
    if "prompt" in mapping:
        found = row.get(mapping["prompt"])
        return found if _is_message(found) else None
    return row if row.get("parent_id") is None else None


def best_path(root: Row | None) -> list[Row]:
    """From the first message to the last answer, at each one the reply that was ranked best.

    A deleted message is never on the path. Replies without a rank come after those with one, rejected ones last, equal
    ones in their order; of what the user may have said next, what was answered comes first.
    """
    path: list[Row] = []
    message = root if root is not None and not root.get("deleted") else None
    while message is not None:
        path.append(message)
        message = min(_kept_replies(message), key=_order, default=None)
    while path and role_of(path[-1].get("role")) != "assistant":
        path.pop()
    return path


def _order(message: Row) -> tuple[bool, bool, float]:
    asks = role_of(message.get("role")) == "user"
    rank: Any = message.get("rank")
    usable = isinstance(rank, int | float) and not math.isnan(rank)  # NaN stands for no rank in tables
    return message.get("review_result") is False, asks and not _kept_replies(message), rank if usable else _LAST


def _kept_replies(message: Row) -> list[Row]:
    replies = message.get("replies")
    return [reply for reply in replies if _is_message(reply) and not reply.get("deleted")] if isinstance(replies, list) else []


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and "text" in value and "role" in value


def said_of(roots: Sequence[Row | None]) -> str:
    """What of the trees is read, as an end of the sentence that explains the fit."""
    every = [message for root in roots for message in _all(root)]
    read = sum(len(best_path(root)) for root in roots)
    deleted = sum(bool(message.get("deleted")) for message in every)
    gone = f" ({deleted} are marked as deleted)" if deleted else ""
    return (
        f"; one conversation a tree, along the best-ranked replies: in the first {len(roots)} trees "
        f"{read} of {len(every)} messages{gone}"
    )


def _all(root: Row | None) -> Iterator[Row]:
    waiting = [root] if root is not None else []
    while waiting:
        message = waiting.pop()
        yield message
        replies = message.get("replies")
        waiting += [reply for reply in replies if _is_message(reply)] if isinstance(replies, list) else []
