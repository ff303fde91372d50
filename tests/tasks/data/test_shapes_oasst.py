"""Of a tree of messages the best-ranked conversation is learned, whether the tree is one row or many."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tasks.data import formats, shapes
from tasks.data.shapes import oasst_messages, oasst_tree
from tasks.errors import DatasetError

Node = dict[str, Any]


def node(text: str, *replies: Node, **more: Any) -> Node:
    """User and assistant by the case of the text."""
    role = "assistant" if text.isupper() else "prompter"
    return {"message_id": text, "role": role, "text": text, "replies": list(replies), **more}


def path(root: Node | None) -> list[str]:
    return [message["text"] for message in oasst_tree.best_path(root)]


PATHS: dict[str, tuple[Node, list[str]]] = {
    "rank": (node("q", node("A", rank=2), node("B", rank=0), node("C", rank=1)), ["q", "B"]),
    "no rank comes last": (node("q", node("A"), node("B", rank=3), node("C", rank=float("nan"))), ["q", "B"]),
    "first of equal ones": (node("q", node("A"), node("B")), ["q", "A"]),
    "deleted": (node("q", node("A", rank=0, deleted=True), node("B", rank=1)), ["q", "B"]),
    "below a deleted one": (node("q", node("A", node("more", node("B")), deleted=True)), []),
    "deleted from the start": (node("q", node("A"), deleted=True), []),
    "rejected comes last": (node("q", node("A", rank=0, review_result=False), node("B", rank=1)), ["q", "B"]),
    "the answered question": (node("q", node("A", node("x"), node("y", node("B", node("z"))))), ["q", "A", "y", "B"]),
    "a last question is no lesson": (node("q", node("A", node("x"))), ["q", "A"]),
    "no answer": (node("q"), []),
    "odd replies": ({**node("q"), "replies": [None, "x", {"text": "no role"}, node("A")]}, ["q", "A"]),
}


@pytest.mark.parametrize("name", PATHS)
def test_best_path(name: str) -> None:
    root, expected = PATHS[name]
    assert path(root) == expected


def test_a_tree_deeper_than_the_stack() -> None:
    root = node("Q")
    for number in range(5000):
        root = node("q" if number % 2 else "A", root)
    assert len(path(node("start", root))) == 5002


def flat(root: Node, tree: str, parent: str | None = None) -> Iterator[Node]:
    yield {**root, "replies": None, "message_tree_id": tree, "message_id": tree + root["message_id"], "parent_id": parent}
    for reply in root["replies"]:
        yield from flat(reply, tree, tree + root["message_id"])


TREES = [root for root, _ in PATHS.values() if all(isinstance(reply, dict) and "role" in reply for reply in root["replies"])]
EXPECTED = [expected for root, expected in PATHS.values() if root in TREES]


def lines(trees: list[Node], shuffle: int | None = None) -> list[tuple[int, Node]]:
    rows = []
    for number, root in enumerate(trees):
        messages = list(flat(root, f"{number}-"))
        if shuffle is not None:
            Random(shuffle).shuffle(messages)
        rows += messages
    return list(enumerate(rows, 1))


@pytest.mark.parametrize("shuffle", [None, 1, 2])
def test_messages_of_a_tree_are_gathered(shuffle: int | None) -> None:
    # Shuffling changes which of several equal replies is the first: take a set of trees without any.
    trees, expected = (TREES, EXPECTED) if shuffle is None else (TREES[:1], EXPECTED[:1])
    rows = lines(trees * 3, shuffle)
    columns = list(rows[0][1])
    shape, fit = shapes.find_shape("here", columns, {}, [row for _, row in rows], "auto")
    assert (shape, fit.confidence) == (oasst_messages, 1.0)
    gathered = list(shapes.gathered(shape, "here", iter(rows)))
    found = [[message["content"] for message in shape.to_messages(row, fit.mapping)] for _, row in gathered]
    assert found == expected * 3
    starts = [line for line, row in rows if line == 1 or row["message_tree_id"] != rows[line - 2][1]["message_tree_id"]]
    assert [line for line, _ in gathered] == starts
    assert f"in the first {len(trees) * 3} trees {sum(map(len, expected)) * 3} of {len(rows)} messages" in fit.reason


def test_first_rows_leave_out_the_tree_that_may_go_on() -> None:
    rows = lines(TREES[:3])
    first = list(oasst_messages.gather("here", iter(rows[:-1]), whole=False))
    assert first == list(oasst_messages.gather("here", iter(rows)))[:2]
    assert len(list(oasst_messages.gather("here", iter(rows[:3]), whole=False))) == 1


def test_only_one_tree_is_held() -> None:
    taken = []

    def endless() -> Iterator[tuple[int, Node]]:
        for line, row in lines(TREES[:1] * 1000):
            taken.append(line)
            yield line, row

    gathered = oasst_messages.gather("here", endless())
    next(gathered)
    assert len(taken) == 5  # four messages of the first tree and one of the next


BROKEN = {
    "scattered": (lambda rows: [*rows[1:], rows[0]], r"here line 2: of the 3 messages of the tree '0-' .* none is the first"),
    "two roots": (lambda rows: [*rows, (5, {**rows[0][1], "message_id": "new"})], r"here line 1: .* 2 are first messages"),
    "twice": (lambda rows: [*rows, rows[-1]], r"here line 1: .* several have the message_id '0-C'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_scattered_trees_are_refused(name: str) -> None:
    change, message = BROKEN[name]
    other = lines([TREES[1]])[0]
    rows = change(lines(TREES[:1]))
    rows.insert(3, (99, {**other[1], "message_tree_id": "other"})) if name == "scattered" else None
    with pytest.raises(DatasetError, match=message):
        list(oasst_messages.gather("here", iter(rows)))


def test_other_shapes_are_not_gathered() -> None:
    rows = iter([(1, {"text": "a"})])
    assert shapes.gathered(shapes.text, "here", rows) is rows
    assert [shape.KIND for shape in shapes.SHAPES if shapes.spans_lines(shape)] == ["oasst_messages"]


def test_a_text_column_named_by_hand_wins_over_the_tree() -> None:
    columns = ["message_id", "message_tree_id", "parent_id", "role", "text"]
    row = {"message_id": "1", "message_tree_id": "1", "parent_id": None, "role": "prompter", "text": "t"}
    assert shapes.find_shape("here", columns, {"text": "text"}, [row], "text")[0].KIND == "text"


def plain_best(message: Node) -> list[str]:
    """The path of a real tree by a shorter rule, which is enough for trees without deleted messages."""
    replies = message.get("replies") or []
    if not replies:
        return [message["text"]]
    answered = [reply for reply in replies if reply.get("replies") or reply["role"] == "assistant"] or replies
    best = sorted(answered, key=lambda reply: reply["rank"] if reply.get("rank") is not None else 99)[0]
    return [message["text"], *plain_best(best)]


@pytest.mark.parametrize("name", ["en_100_tree", "en_100_message"])
def test_real_trees(name: str, real: Any) -> None:
    address = real(f"oasst/{name}.jsonl")
    rows = [row for _, row in formats.read(address, {})]
    shape, fit = shapes.find_shape(address, list(rows[0]), {}, rows, "auto")
    assert (shape.KIND, shape.TASK, fit.confidence) == ("oasst_tree", "chat", 1.0)
    assert "in the first 100 trees 290 of 1167 messages" in fit.reason
    for raw, line in zip(rows, Path(address).read_text(encoding="utf-8").splitlines(), strict=True):
        tree = json.loads(line)
        expected = plain_best(tree.get("prompt", tree))
        messages = shape.to_messages(raw, fit.mapping)
        assert [message["content"] for message in messages] == expected[: len(expected) // 2 * 2]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
