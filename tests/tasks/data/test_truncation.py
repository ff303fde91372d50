"""Rows longer than the limit: what is cut, what is divided, what it costs, and that no row and no token is lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.contracts import ModelRef
from tasks.data import shards
from tasks.data.encoding import Encoder
from tasks.data.fast_tokens import encoder_of
from tasks.data.rendering import Renderer
from tasks.data.templates import Forms
from tasks.data.token_facts import ShardTokens
from tasks.data.token_setup import TokenizeSetup
from tasks.data.tokenizing import quarantine_of, tokenize_shard
from tasks.data.truncation import cut
from tasks.models import load_tokenizer

Any_ = Callable[..., Any]


def conversation(*turns: tuple[str, str] | tuple[str, str, bool]) -> list[dict[str, Any]]:
    return [{"role": turn[0], "content": turn[1], "learn": turn[2] if len(turn) > 2 else True} for turn in turns]


def written(path: Path, rows: list[tuple[int, list[dict[str, Any]]]]) -> None:
    """A shard of clean rows."""
    columns = {
        "row": pa.array([number for number, _ in rows], pa.int64()),
        "file": pa.array(["data.jsonl"] * len(rows), pa.string()),
        "line": pa.array([number + 1 for number, _ in rows], pa.int64()),
        "source": pa.array([0] * len(rows), pa.int64()),
        "messages": pa.array([messages for _, messages in rows], pa.list_(shards.message_type())),
        "group": pa.array([f"g{number}" for number, _ in rows], pa.string()),
    }
    shards.write_shard(path, pa.table(columns))


@pytest.fixture
def shard(tmp_path: Path, base: ModelRef) -> Any_:
    """Rows as one shard of sequences: its facts, and (whole text, learned text, record) of every sequence."""

    def run(rows: list[Any], limit: int, policy: str = "split", task: str = "chat", tokenizer: Path | None = None) -> Any:
        folder = str(tokenizer or base.location)
        loaded = load_tokenizer(folder)
        written(tmp_path / "in.parquet", list(enumerate(rows)))
        setup = TokenizeSetup(
            tokenizer=folder, template=loaded.chat_template, task=task, limit=limit, truncation=policy, engine="tiktoken",
            forms=True,
        )  # fmt: skip
        facts = tokenize_shard(tmp_path / "in.parquet", tmp_path / "train" / "part.parquet", setup)
        found = []
        for record in shards.read_shard(tmp_path / "train" / "part.parquet").to_pylist():
            learned = [i for i, on in zip(record["input_ids"], record["supervised"], strict=True) if on]
            found.append((loaded.decode(record["input_ids"]), loaded.decode(learned), record))
        return facts, found

    return run


# The end of a turn is a dozen tokens here, and an answer begins with six that are learned.
LONG_END = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + ('(think)' if m['role'] == 'assistant' and loop.last else '') }}"
    "{{ m['content'] + '(end of turn)<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def test_a_cut_is_never_inside_the_template(make_tokenizer: Any_) -> None:
    tokenizer = load_tokenizer(make_tokenizer(LONG_END))
    renderer = Renderer(tokenizer, "chat")
    encoder = Encoder(renderer, Forms(renderer), encoder_of(tokenizer, "tiktoken"))
    turns = conversation(("user", "one"), ("assistant", "first answer"), ("user", "two"), ("assistant", "second one"))
    block = encoder.encode_turns(turns)
    assert block is not None
    length = int(block.lengths[0])
    ids = [cut(block, 0, encoder, limit).tokens()[0] for limit in range(length + 1)]
    assert all(len(found) <= limit for limit, found in enumerate(ids))
    cuts = {tokenizer.decode(found) for found in ids}
    before, tail = "[user]one(end of turn)<|im_end|>[assistant]", "(end of turn)<|im_end|>"
    between = f"first answer{tail}[user]two{tail}[assistant](think)"
    for found in cuts - {"", before + between + "second one" + tail}:
        rest = found.removeprefix(before)
        assert rest
        if rest.startswith(between):
            assert "second one".startswith(rest.removeprefix(between))
        else:
            assert "first answer".startswith(rest) or rest == "first answer" + tail
    assert len(cuts) > 10


def test_split_divides_conversations_between_exchanges(shard: Any_) -> None:
    turns = [("system", "be brief")]
    for n in range(6):
        turns += [("user", f"question number {n}"), ("assistant", f"the answer to number {n}")]
    facts, found = shard([conversation(*turns)], 130)
    assert len(found) > 1
    for whole, _, _ in found:
        assert whole.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nquestion number")
        assert whole.endswith("<|im_end|>")
    # Every answer is learned once, and nothing is lost.
    assert "".join(learned for _, learned, _ in found) == "".join(f"the answer to number {n}<|im_end|>" for n in range(6))
    assert (facts.truncated_rows, facts.truncated_tokens, facts.dropped) == (0, 0, ())
    assert (facts.rows, facts.split_rows, facts.long_rows, facts.sequences) == (1, 1, 1, len(found))
    assert facts.lengths[-1][0] <= 130
    # The system's turn comes again, and the line break between two exchanges is in none of the pieces.
    uncut, _ = shard([conversation(*turns)], 1000)
    assert facts.repeated_tokens == facts.tokens - uncut.tokens > 0
    assert [record["reference"] for _, _, record in found][-1] == "the answer to number 5"


def test_split_leaves_out_the_system_where_it_does_not_fit(shard: Any_) -> None:
    turns = [("system", "a long rule " * 6)]
    for n in range(3):
        turns += [("user", f"question {n}"), ("assistant", f"answer {n} " * 4)]
    _, found = shard([conversation(*turns)], 90)
    assert [whole.startswith("<|im_start|>user") for whole, _, _ in found] == [True, True]


def test_split_cuts_an_exchange_that_is_too_long_alone(shard: Any_) -> None:
    long = "long " * 60
    turns = (("user", "one"), ("assistant", "short"), ("user", "two"), ("assistant", long), ("user", "x"), ("assistant", "end"))
    facts, found = shard([conversation(*turns)], 60)
    assert [learned[:9] for _, learned, _ in found] == ["short<|im", "long long", "end<|im_e"]
    whole, _ = shard([conversation(*turns)], 1000)
    # The line break between two exchanges is in none of the pieces.
    assert facts.tokens + facts.truncated_tokens == whole.tokens - 2
    assert (facts.truncated_rows, whole.truncated_rows, facts.lengths[-1][0]) == (1, 0, 60)


def test_split_keeps_the_context_that_an_answer_needs(shard: Any_) -> None:
    # The first answer is context alone, so its exchange teaches nothing without the next one.
    turns = [("user", "first"), ("assistant", "draft", False), ("user", "again"), ("assistant", "good")]
    turns += [("user", "and"), ("assistant", "more"), ("tool", "result"), ("assistant", "done")]
    facts, found = shard([conversation(*turns)], 60)
    assert [learned for _, learned, _ in found] == ["good<|im_end|>", "more<|im_end|>done<|im_end|>"]
    assert "draft" in found[0][0]
    assert "result" in found[1][0]
    assert facts.split_rows == 1


def test_split_cuts_where_the_template_refuses_the_pieces(shard: Any_, chatml: str, make_tokenizer: Any_) -> None:
    demanding = "{% if messages | length < 3 and not add_generation_prompt and messages[0]['content'] == 'two' %}"
    demanding += "{{ raise_exception('too short') }}{% endif %}" + chatml
    turns = [("user", "one"), ("assistant", "first"), ("user", "two"), ("assistant", "second")]
    facts, found = shard([conversation(*turns)], 30, tokenizer=make_tokenizer(demanding))
    assert [learned for _, learned, _ in found] == ["first<|im_end|>"]
    assert (facts.rows, facts.split_rows, facts.truncated_rows) == (1, 0, 1)


def test_split_divides_texts_into_equal_pieces(shard: Any_) -> None:
    text = " ".join(f"word{n}" for n in range(60))
    uncut, _ = shard([conversation(("text", text))], 1000, task="text")
    facts, found = shard([conversation(("text", text))], 100, task="text")
    assert "".join(whole for whole, _, _ in found) == text + "<|im_end|>"
    lengths = [len(record["input_ids"]) for _, _, record in found]
    assert max(lengths) - min(lengths) <= 1
    assert (facts.tokens, facts.repeated_tokens) == (uncut.tokens, 0)
    assert "".join(record["prompt"] + record["reference"] for _, _, record in found) == text


def test_pieces_of_a_text_begin_as_texts_do(shard: Any_, tmp_path: Path, make_tokenizer: Any_) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(make_tokenizer())
    tokenizer.bos_token = "<|im_start|>"
    number = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", number)]
    )
    tokenizer.save_pretrained(tmp_path / "begins")
    facts, found = shard([conversation(("text", "abc def " * 40))], 64, task="text", tokenizer=tmp_path / "begins")
    assert len(found) > 2
    assert all(record["input_ids"][0] == number and record["supervised"][:2] == [0, 1] for _, _, record in found)
    assert facts.repeated_tokens == len(found) - 1


CONTENT = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["<|im_end|>", "", " ", "\n", "word " * 60, "\ue0000\ue001", "\x00", "👩\u200d👧", "e\u0301", "\U0010fffc"]
    ),
)
TURN = st.tuples(st.sampled_from(["system", "user", "assistant", "assistant", "tool", "text"]), CONTENT, st.booleans())
POLICIES = st.sampled_from(["cut", "split", "error"])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.lists(TURN, max_size=6), min_size=1, max_size=12), policy=POLICIES, limit=st.integers(1, 80),
    task=st.sampled_from(["chat", "text", "completion"]),
)  # fmt: skip
def test_every_row_and_token_is_accounted_for(
    rows: list[Any], policy: Any, limit: int, task: str, base: ModelRef, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    conversations = [conversation(*turns) for turns in rows]
    if task == "text":
        conversations = [messages[:1] for messages in conversations]
    written(folder / "in.parquet", list(enumerate(conversations)))
    tokenizer = load_tokenizer(base.location)
    setup = TokenizeSetup(
        tokenizer=base.location, template=tokenizer.chat_template, task=task, limit=limit, truncation=policy, engine="tiktoken",
        forms=True,
    )  # fmt: skip
    facts = tokenize_shard(folder / "in.parquet", folder / "train" / "part.parquet", setup)
    records = list(shards.read_shard(folder / "train" / "part.parquet").to_pylist())
    gone = quarantine_of(folder / "train" / "part.parquet")
    dropped = shards.read_shard(gone).to_pylist() if gone.exists() else []
    assert facts.lost_rows == 0
    assert sorted({r["row"] for r in records} | {r["row"] for r in dropped}) == list(range(len(rows)))
    assert {r["row"] for r in records} & {r["row"] for r in dropped} == set()
    assert (facts.rows_in, facts.rows, facts.sequences) == (len(rows), len({r["row"] for r in records}), len(records))
    assert facts.tokens == sum(len(r["input_ids"]) for r in records) == sum(a * b for a, b in facts.lengths)
    assert facts.supervised == sum(sum(r["supervised"]) for r in records)
    assert all(1 < len(r["input_ids"]) <= limit and any(r["supervised"][1:]) for r in records)
    uncut: ShardTokens = tokenize_shard(
        folder / "in.parquet", folder / "whole" / "part.parquet", setup.model_copy(update={"limit": 100_000})
    )
    lengths = {r["row"]: len(r["input_ids"]) for r in shards.read_shard(folder / "whole" / "part.parquet").to_pylist()}
    assert facts.long_rows == sum(length > limit for length in lengths.values())
    if policy != "split":
        assert facts.tokens + facts.truncated_tokens == uncut.tokens
        assert len(records) == facts.rows
    else:
        assert facts.tokens + facts.truncated_tokens - facts.repeated_tokens <= uncut.tokens
