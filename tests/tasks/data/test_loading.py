"""Rows of every shape become conversations; what cannot be mapped is refused with the way out."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.data import loading
from tasks.data.shapes import SHAPES, spans_lines
from tasks.data.spec import DataSpec
from tasks.errors import DatasetError

Load = Callable[..., Any]


def turns(*pairs: str) -> list[dict[str, str]]:
    return [dict(zip(("role", "content"), pair.split(":", 1), strict=True)) for pair in pairs]


CASES: dict[str, tuple[str, str, dict[str, Any], list[dict[str, str]]]] = {
    "alpaca": (
        "instruction", "chat", {"instruction": "Add", "input": "1 2", "output": "3"}, turns("user:Add\n\n1 2", "assistant:3"),
    ),
    "no input": ("instruction", "chat", {"instruction": "Go", "input": "", "response": "ok"}, turns("user:Go", "assistant:ok")),
    "pairs": ("prompt_completion", "completion", {"prompt": "a", "completion": "b"}, turns("user:a", "assistant:b")),
    "qa": ("question_answer", "qa", {"question": "q", "answer": 7}, turns("user:q", "assistant:7")),
    "context": (
        "question_answer", "qa", {"question": "q", "context": "c", "answers": {"text": ["x", "y"], "answer_start": [0]}},
        turns("user:c\n\nq", "assistant:x"),
    ),
    "openai": (
        "messages", "chat",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]},
        turns("user:a", "assistant:b"),
    ),
    "calls": (
        "messages", "chat",
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [{"f": 1}]}]},
        turns("user:a", 'assistant:[{"f": 1}]'),
    ),
    "sharegpt": (
        "sharegpt", "chat",
        {
            "conversations": [
                {"from": "human", "value": "a"}, {"from": "function_call", "value": "f"},
                {"from": "observation", "value": "o"}, {"from": "gpt", "value": "b"},
            ],
            "system": "be kind",
        },
        turns("system:be kind", "user:a", "assistant:f", "tool:o", "assistant:b"),
    ),
    "tree": (
        "oasst_tree", "chat",
        {
            "message_tree_id": "1",
            "prompt": {
                "text": "a", "role": "prompter",
                "replies": [
                    {"text": "c", "role": "assistant", "rank": 1, "replies": []},
                    {"text": "b", "role": "assistant", "rank": 0, "replies": []},
                ],
            },
        },
        turns("user:a", "assistant:b"),
    ),
    "label": ("text_label", "classification", {"sentence": "fine", "intent": "good"}, turns("user:fine", "assistant:good")),
    "text": ("text", "text", {"text": "words"}, turns("text:words")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str, load: Load, write: Load, rows_of: Load) -> None:
    shape, task, row, messages = CASES[name]
    raw, out = load(write([row, row]))
    assert (raw.shape, raw.task, raw.rows) == (shape, task, 2)
    assert rows_of(out)[1] == {"row": 1, "file": raw.files[0].address, "line": 2, "source": 0, "messages": messages}


def test_every_shape_is_tested() -> None:
    of_one_line = {shape.KIND for shape in SHAPES if not spans_lines(shape)}
    assert {case[0] for case in CASES.values()} == of_one_line


def test_mapping_says_why(load: Load, write: Load) -> None:
    raw, _ = load(write([{"id": 1, "instruction": "a", "response": "b"}]))
    assert raw.mapping == {"instruction": "instruction", "output": "response"}
    assert raw.mapping_confidence == 0.95
    assert raw.mapping_reason == "instruction: instruction from 'instruction', output from 'response'; not used: id"


def test_missing_fields_become_empty_content(load: Load, write: Load, rows_of: Load) -> None:
    _, out = load(write([{"question": "q", "answer": "a"}, {"question": "only"}, {"question": None, "answer": 1.5}]))
    assert [[m["content"] for m in row["messages"]] for row in rows_of(out)] == [["q", "a"], ["only", ""], ["", "1.5"]]


def test_lone_surrogates_become_replacement_characters(load: Load, write: Load, rows_of: Load) -> None:
    _, out = load(write([{"text": "a\ud800b"}]))
    assert rows_of(out)[0]["messages"][0]["content"] == "a\ufffdb"


def test_columns_override(load: Load, write: Load, rows_of: Load) -> None:
    path = write([{"ask": "q", "reply": "a", "text": "t"}])
    assert load(path)[0].shape == "text"
    raw, out = load(path, columns={"question": "ask", "answer": "reply"})
    assert raw.shape == "question_answer"
    assert rows_of(out)[0]["messages"] == turns("user:q", "assistant:a")


def test_task_can_be_forced(load: Load, write: Load, rows_of: Load) -> None:
    path = write([{"text": "t", "label": "l"}])
    assert load(path)[0].task == "classification"
    raw, out = load(path, task="text")
    assert (raw.task, raw.shape, rows_of(out)[0]["messages"]) == ("text", "text", turns("text:t"))
    assert load(path, task="chat")[0].sha256 != load(path)[0].sha256
    with pytest.raises(DatasetError, match="fit no known shape for the task 'chat'"):
        load(write([{"text": "t"}]), task="chat")


def test_system_prompt_goes_before_conversations_without_one(load: Load, write: Load, rows_of: Load) -> None:
    own = {"messages": turns("system:own", "user:a", "assistant:b")}
    _, out = load(write([own, {"messages": turns("user:a", "assistant:b")}]), system_prompt="ours")
    assert [row["messages"][0]["content"] for row in rows_of(out)] == ["own", "ours"]


def test_maximum_rows(load: Load, write: Load) -> None:
    rows = [{"question": str(n), "answer": "a"} for n in range(9)]
    sources = [write(rows, "one.jsonl"), write(rows, "two.jsonl")]
    assert [file.rows for file in load(sources, maximum_rows=11)[0].files] == [9, 2]


def test_mixed_shapes_make_one_dataset(load: Load, write: Load) -> None:
    one = write([{"question": "q", "answer": "a"}], "one.jsonl")
    two = write([{"instruction": "q", "output": "a"}], "two.jsonl")
    raw, _ = load([one, {"address": two, "weight": 2}])
    assert (raw.shape, raw.task, [f.weight for f in raw.files]) == ("question_answer + instruction", "chat", [1.0, 2.0])
    text = write([{"text": "x"}], "three.jsonl")
    with pytest.raises(DatasetError, match="Plain text and conversations cannot be mixed"):
        load([one, text])


REFUSED = {
    "preferences": ([{"prompt": "a", "chosen": "b", "rejected": "c"}], {}, "preference pairs .chosen and rejected."),
    "unknown": (
        [{"foo": 1, "bar": 2}], {},
        "the columns foo, bar fit no known shape.*Known shapes: messages.*--set data.columns.question=ask",
    ),
    "tree": ([{"text": "x", "role": "prompter", "parent_id": None}], {}, "fit no known shape"),
    "wrong types": ([{"question": ["a", {}], "answer": {"b": 1}}], {}, "Nearest: question_answer: .*another type"),
    "unknown column": ([{"text": "a"}], {"columns": {"text": "txet"}}, "Unknown column 'txet'. Did you mean 'text'"),
    "no answers": ([{"question": "a", "answer": " "}] * 3, {}, "rows whose answer is empty in every case: 3 of .* line 1"),
    "no prompts": ([{"question": "", "answer": "b"}] * 3, {}, "rows whose prompt is empty in every case"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, write: Load) -> None:
    rows, fields, message = REFUSED[name]
    spec = DataSpec.model_validate({"source": write(rows), **fields})
    with pytest.raises(DatasetError, match=message):
        loading.peek(spec, {})


def test_all_files_problems_come_at_once(write: Load) -> None:
    sources = [write([{"foo": 1}], "one.jsonl"), write([{"chosen": 1, "rejected": 2}], "two.jsonl")]
    with pytest.raises(DatasetError, match=r"(?s)one\.jsonl.*two\.jsonl"):
        loading.peek(DataSpec(source=sources), {})


def test_peek_reads_only_the_first_rows(write: Load) -> None:
    path = write([{"text": str(n)} for n in range(3)])
    with Path(path).open("a") as file:
        file.write("broken\n")
    seen = loading.peek(DataSpec(source=path), {}, rows=3)
    assert (seen.shape, seen.format, len(seen.messages), seen.columns) == ("text", "json_lines", 3, ("text",))
    with pytest.raises(DatasetError, match="line 4"):
        loading.peek(DataSpec(source=path), {}, rows=4)


def test_digest_follows_content_not_place(load: Load, write: Load) -> None:
    rows = [{"text": "one"}, {"text": "two"}]
    one, other = write(rows, "one.jsonl"), write(rows, "two.jsonl")
    assert load(one)[0].sha256 == load(other)[0].sha256
    assert load(one)[0].sha256 != load(write(rows[::-1], "three.jsonl"))[0].sha256
    assert loading.source_digests(DataSpec(source=one), {})[0][1:] == loading.source_digests(DataSpec(source=other), {})[0][1:]
    assert loading.source_digests(DataSpec(source=one), {})[0][2] == 32  # two lines of 16 bytes


def test_spec_is_light() -> None:
    code = "import sys, tasks.data.spec; print([m for m in ('torch', 'pandas', 'transformers', 'prefect') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
