"""Conversations keep every turn: roles, tools, calls, parts of contents, and answers that are not to be learned."""

from collections.abc import Sequence
from typing import Any

import pytest

from tasks.data import shapes
from tasks.data.shapes.values import Message
from tasks.errors import DatasetError

Row = dict[str, Any]


def mapped(*rows: Row, task: str = "auto", **overrides: str) -> tuple[str, str, list[list[Message]]]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    shape, fit = shapes.find_shape("here", columns, overrides, rows, task)
    return shape.KIND, fit.reason, [shape.to_messages(row, fit.mapping) for row in rows]


def told(messages: Sequence[Message]) -> list[str]:
    return [f"{message['role']}:{message['content']}" for message in messages]


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALLED = '[{"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}]'
TURNS: dict[str, tuple[str, Row, list[str]]] = {
    "calls beside content": (
        "messages", {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "Let me see.",
                     "tool_calls": [CALL]}, {"role": "tool", "content": "2", "tool_call_id": "1"},
                     {"role": "assistant", "content": "2"}]},
        ["user:1+1", f"assistant:Let me see.\n{CALLED}", "tool:2", "assistant:2"],
    ),
    "the older way of calls": (
        "messages", {"messages": [{"role": "user", "content": "x"},
                     {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                     {"role": "function", "name": "f", "content": "y"}]},
        ["user:x", 'assistant:{"name": "f", "arguments": "{}"}', "tool:y"],
    ),
    "parts": (
        "messages", {"messages": [{"role": "developer", "content": "s"},
                     {"role": "user", "content": [{"type": "text", "text": "see "}, {"type": "image_url", "image_url": "u"}]},
                     {"role": "assistant", "content": ["a", {"type": "text", "value": "b", "text": None}]}]},
        ["system:s", 'user:see {"type": "image_url", "image_url": "u"}', "assistant:ab"],
    ),
    "as text": (
        "messages", {"messages": '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'},
        ["user:a", "assistant:b"],
    ),
    "tools": (
        "sharegpt", {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
                     {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "o"},
                     {"from": "gpt", "value": "a"}],
                     "tools": '[{"name": "f"}]'},
        ['system:s\n\nYou may call these tools:\n[{"name": "f"}]', "user:q", "assistant:{}", "tool:o", "assistant:a"],
    ),
    "mixed keys": (
        "sharegpt", {"conversations": [{"from": "human", "content": "q"}, {"role": "assistant", "value": "a"}]},
        ["user:q", "assistant:a"],
    ),
    "no objects": (
        "messages", {"messages": [{"role": "user", "content": "q"}, "loose", None,
                     {"role": "assistant", "content": "ä\ud800"}]},
        ["user:q", "unknown:loose", "unknown:", "assistant:ä\ufffd"],
    ),
    "odd values": (
        "messages", {"messages": [{"role": ["x"], "content": {"a": 1}}, {"role": "assistant", "content": 7}, {"role": "Sage"}]},
        ['["x"]:{"a": 1}', "assistant:7", "sage:"],
    ),
    "nothing": ("messages", {"messages": None}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
def test_turns(name: str) -> None:
    kind, row, expected = TURNS[name]
    found, _, (messages,) = mapped(row)
    assert (found, told(messages)) == (kind, expected)


WEIGHTS: dict[str, tuple[Row, bool]] = {
    "none": ({}, True), "one": ({"weight": 1}, True), "zero": ({"weight": 0}, False), "float": ({"loss_weight": 0.0}, False),
    "half": ({"loss_weight": 0.5}, True), "false": ({"train": False}, False), "true": ({"train": True}, True),
    "text": ({"weight": "0"}, False), "nothing": ({"weight": None}, True), "word": ({"train": "no"}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("keys", [("messages", "role", "content"), ("conversations", "from", "value")])
def test_answers_of_weight_zero_are_not_learned(name: str, keys: tuple[str, str, str]) -> None:
    column, role, content = keys
    extra, learned = WEIGHTS[name]
    row = {column: [{role: "user", content: "q", "weight": 0}, {role: "assistant", content: "a", **extra}]}
    _, _, (messages,) = mapped(row)
    assert messages[0] == {"role": "user", "content": "q"}
    assert messages[1] == {"role": "assistant", "content": "a"} | ({} if learned else {"learn": False})


def test_the_reason_says_what_of_the_turns_is_not_used() -> None:
    turns = [
        {"role": "user", "content": "q", "name": "Ann", "weight": 1}, {"role": "assistant", "content": "a", "weight": 0},
        {"role": "assistant", "content": "a", "weight": 0.5, "reasoning": "so"},
    ]  # fmt: skip
    _, reason, _ = mapped({"messages": turns})
    assert reason == (
        "messages: messages from 'messages'; 1 answers of weight 0 are context, not learned; 1 answers of weights other "
        "than 0 and 1 count whole; 1 turns of others have a weight, but only answers are learned; of the turns not used: "
        "name, reasoning"
    )


def test_columns_named_by_hand_win() -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert mapped({"log": turns, "text": "t"}, conversations="log")[0] == "sharegpt"
    assert mapped({"log": turns, "text": "t"}, messages="log")[2] == [[
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
    ]]  # fmt: skip
    assert mapped({"log": turns, "text": "t"})[0] == "text"


PREFERENCES = [("chosen", "rejected"), ("Chosen", "rejected"), ("preferred_output", "non_preferred_output")]


@pytest.mark.parametrize(("better", "worse"), PREFERENCES)
def test_preference_pairs_are_refused_unless_the_better_answer_is_named(better: str, worse: str) -> None:
    row = {"prompt": "p", better: "good", worse: "bad"}
    with pytest.raises(DatasetError, match=r"here: the rows are preference pairs .*Keep the \w+ answers as an answer column"):
        mapped(row)
    kind, _, (messages,) = mapped(row, completion=better)
    assert (kind, told(messages)) == ("prompt_completion", ["user:p", "assistant:good"])


def test_what_a_format_leaves_out_stands_in_the_reason() -> None:
    _, fit = shapes.find_shape("here", ["text"], {}, [{"text": "a"}], "auto", "the set 'train' is read, test left out")
    assert fit.reason == "text: text from 'text'; the set 'train' is read, test left out"


def test_blank_parts_of_a_prompt_leave_no_empty_lines() -> None:
    rows = [{"instruction": "Go", "input": " \n", "output": "a"}, {"instruction": "", "input": "x", "output": "a"}]
    assert [messages[0]["content"] for messages in mapped(*rows)[2]] == ["Go", "x"]
