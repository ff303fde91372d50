"""Messages of trees as Open Assistant writes them, a message a row; the rows of a tree follow one another."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from tasks.data.shapes import oasst_tree
from tasks.data.shapes.values import Fit, Message, Row, match
from tasks.errors import DatasetError

KIND = "oasst_messages"
TASK = "chat"
REQUIRED = {"text": ("text",)}
OPTIONAL: dict[str, tuple[str, ...]] = {}
READS = oasst_tree.READS | {"message_tree_id", "message_id"}
_TREE = "message_tree_id"
_COLUMNS = frozenset((_TREE, "message_id", "parent_id", "role", "text"))
_ROOT = {"prompt": "prompt"}


def fit(columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row]) -> Fit | None:
    """How well the rows are single messages that name their tree and what they reply to."""
    if not set(columns) >= _COLUMNS or any(row.get("replies") for row in rows):
        return None
    found = match(KIND, REQUIRED, OPTIONAL, columns=columns, overrides=overrides, rows=rows)
    if found is None:
        return None
    trees = [_join(list(group))[0] for _, group in groupby(rows, lambda row: row.get(_TREE))]
    said = oasst_tree.said_of([tree for tree in trees if tree is not None])
    return Fit(found.mapping, found.confidence, f"{found.reason}, joined by {_TREE!r} and 'parent_id'{said}")


def gather(address: str, rows: Iterator[tuple[int, Row]], *, whole: bool = True) -> Iterator[tuple[int, Row]]:
    """One row a tree, with the line of its first message; no more than a tree is held.

    Args:
        address: named in errors.
        rows: line and message, the messages of a tree one after the other.
        whole: False where the rows are the beginning of a file: the last tree, which may go on, is then left out
            unless it is the only one.

    Raises:
        DatasetError: a tree has no first message or several, as where its messages do not lie together.
    """
    before: list[tuple[int, Row]] = []
    alone = True
    for _, group in groupby(rows, lambda pair: pair[1].get(_TREE)):
        if before:
            yield _gathered(address, before)
            alone = False
        before = list(group)
    if before and (whole or alone):
        yield _gathered(address, before)


def to_messages(row: Row, mapping: Mapping[str, str]) -> list[Message]:
    """The conversation of a gathered tree."""
    assert "prompt" in row, "rows of this shape are gathered to trees before they are mapped"
    return oasst_tree.to_messages(row, _ROOT)


def _gathered(address: str, lines: list[tuple[int, Row]]) -> tuple[int, Row]:
    line, tree = lines[0][0], lines[0][1].get(_TREE)
    root, problem = _join([row for _, row in lines])
    if root is None or problem:
        raise DatasetError(
            f"{address} line {line}: of the {len(lines)} messages of the tree {tree!r} that follow one another here "
            f"{problem}. Sort the rows by {_TREE}, so that the messages of a tree lie together, each tree once."
        )
    return line, {_TREE: tree, "prompt": root}


def _join(messages: Sequence[Row]) -> tuple[Row | None, str]:
    """The first message with all replies below it, and what is wrong with the tree; "" where nothing is."""
    nodes: dict[Any, dict[str, Any]] = {}
    for message in messages:
        if message.get("message_id") in nodes:
            return None, f"several have the message_id {message.get('message_id')!r}"
        nodes[message.get("message_id")] = {**message, "replies": []}
    roots = []
    for node in nodes.values():
        parent = node.get("parent_id")
        if parent is None:
            roots.append(node)
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
    if not roots:
        return None, "none is the first (an empty parent_id)"
    return roots[0], f"{len(roots)} are first messages (an empty parent_id), expected one" if len(roots) > 1 else ""
