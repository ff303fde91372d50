"""Only answers and their ends are learned, exactly, and every row and token is accounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.batching import epoch_batches, fill
from tasks.contracts import DatasetSplits, ModelRef, SplitPart
from tasks.data import shards, tokenizing
from tasks.data.running import several
from tasks.data.token_setup import TokenizeSetup
from tasks.data.tokenizing import tokenize_shard
from tasks.errors import DatasetError, LedgerError, ModelError
from tasks.models import PLAIN_TEMPLATE, load_tokenizer
from tasks.storage import records_of

Any_ = Callable[..., Any]
NAMES = ("train", "validation", "test")


def conversation(*turns: tuple[str, str] | tuple[str, str, bool]) -> list[dict[str, Any]]:
    return [{"role": turn[0], "content": turn[1], "learn": turn[2] if len(turn) > 2 else True} for turn in turns]


def numbered(count: int = 6, answer: str = "answer") -> list[list[dict[str, Any]]]:
    return [conversation(("user", f"question {n}"), ("assistant", f"{answer} {n}")) for n in range(count)]


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
def tokenize(folder: Any_) -> Any_:
    """Conversations through tokenize: of every ten the last is a test row, the one before for validation; 7 rows a shard."""

    def run(rows: list[Any], base: ModelRef, task: str = "chat", **options: Any) -> tuple[Any, Path]:
        place: Path = folder("split")
        parts: dict[str, list[tuple[int, Any]]] = {name: [] for name in NAMES}
        for number, messages in enumerate(rows):
            parts[{8: "validation", 9: "test"}.get(number % 10, "train")].append((number, messages))
        for name, found in parts.items():
            (place / name).mkdir()
            for part in range(0, len(found), 7):
                written(place / name / shards.shard_name(part // 7), found[part : part + 7])
        values = {name: SplitPart(uri=f"mem://{name}", sha256="1" * 64, rows=len(found)) for name, found in parts.items()}
        splits = DatasetSplits(name="set", sha256="2" * 64, parent_sha256="3" * 64, task=task, groups=1, **values)
        out: Path = options.pop("out", None) or folder("tokens")
        settings = {"max_length": 256, "truncation": "cut", "batch_size": 4, "seed": 0} | options
        return tokenizing.tokenize(splits, base, {name: place / name for name in NAMES}, out, "mem://tokens", **settings), out

    return run


def read(out: Path) -> list[dict[str, Any]]:
    return [record for name in NAMES for record in shards.read_rows(out / name)]


def show(out: Path) -> dict[int, tuple[str, str, dict[str, Any]]]:
    """(whole text, learned text, record) of every row, by row number."""
    tokenizer = load_tokenizer(out / "tokenizer")
    found = {}
    for record in read(out):
        learned = [i for i, on in zip(record["input_ids"], record["supervised"], strict=True) if on]
        found[record["row"]] = (tokenizer.decode(record["input_ids"]), tokenizer.decode(learned), record)
    return found


def test_single_turn(tokenize: Any_, base: ModelRef) -> None:
    value, out = tokenize(numbered(), base)
    whole, learned, record = show(out)[3]
    prompt = "<|im_start|>user\nquestion 3<|im_end|>\n<|im_start|>assistant\n"
    assert (whole, learned) == (prompt + "answer 3<|im_end|>", "answer 3<|im_end|>")
    assert (record["prompt"], record["reference"], record["group"]) == (prompt, "answer 3", "g3")
    ids = load_tokenizer(base.location)(prompt, add_special_tokens=False)["input_ids"]
    assert record["input_ids"][: len(ids)] == ids
    assert value.train.sequences == 6
    assert value.template_source == "the model's own"
    assert value.train.uri == "mem://tokens/train"
    engine, template = value.reasons
    assert engine.startswith("tokens by tiktoken, built from the tokenizer's own files: the same ids")
    assert template == "the template is filled in as strings: the same as jinja on 6 real rows"


MULTI = (
    ("system", "rules"), ("user", "one"), ("assistant", "first"), ("user", "two"), ("assistant", "second"), ("user", "open"),
)  # fmt: skip


def conversations(count: int = 6) -> list[Any]:
    return [conversation(*((role, f"{text} {n}") for role, text in MULTI)) for n in range(count)]


def test_every_assistant_turn_is_learned(tokenize: Any_, base: ModelRef) -> None:
    whole, learned, record = show(tokenize(conversations(), base)[1])[2]
    assert learned == "first 2<|im_end|>second 2<|im_end|>"
    assert whole.endswith("<|im_start|>assistant\nsecond 2<|im_end|>")
    assert whole.startswith(
        "<|im_start|>system\nrules 2<|im_end|>\n<|im_start|>user\none 2<|im_end|>\n<|im_start|>assistant\nfirst"
    )
    assert record["prompt"].endswith("two 2<|im_end|>\n<|im_start|>assistant\n")
    assert record["reference"] == "second 2"


def test_an_answer_that_is_context_is_not_learned(tokenize: Any_, base: ModelRef) -> None:
    draft, extra = ("assistant", "draft", False), ("assistant", "x", False)
    rows = [conversation(("user", "one"), draft, ("user", "two"), ("assistant", f"final {n}"), extra) for n in range(6)]
    whole, learned, record = show(tokenize(rows, base)[1])[5]
    assert learned == "final 5<|im_end|>"
    assert "draft<|im_end|>" in whole
    assert whole.endswith("final 5<|im_end|>")
    assert record["reference"] == "final 5"


TEMPLATES = {
    "thought only in the last turn": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "first 2<|im_end|><think>\n\n</think>\n\nsecond 2<|im_end|>",
        "the template is not prefix-stable",
    ),
    "no end of its own": (
        "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}",
        "first 2\nsecond 2\n<|im_end|>",
        "the end-of-sequence token is added",
    ),
    "capitals": (
        "{% for m in messages %}{{ m['role'] + ': ' + (m['content'] | upper if m['role'] == 'user' else m['content']) }}"
        "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "first 2<|im_end|>second 2<|im_end|>",
        "the template is rendered by jinja, row by row",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_other_templates(name: str, tokenize: Any_, make_tokenizer: Any_, base_of: Any_) -> None:
    template, expected, reason = TEMPLATES[name]
    value, out = tokenize(conversations(), base_of(make_tokenizer(template)))
    assert show(out)[2][1] == expected
    assert reason in "".join(value.reasons)


def test_a_tokenizer_without_template_gets_the_plain_one(tokenize: Any_, make_tokenizer: Any_, base_of: Any_) -> None:
    value, out = tokenize(numbered(), base_of(make_tokenizer(None)))
    assert show(out)[1][:2] == ("### user\nquestion 1\n### assistant\nanswer 1<|im_end|>", "answer 1<|im_end|>")
    assert value.template_source == "plain"
    assert value.reasons[0] == "the tokenizer has no chat template, so the plain one is set"
    assert load_tokenizer(out / "tokenizer").chat_template == PLAIN_TEMPLATE


def test_a_chosen_template_is_used_and_travels_with_the_tokenizer(tokenize: Any_, base: ModelRef) -> None:
    chosen = PLAIN_TEMPLATE.replace("###", "##")
    value, out = tokenize(numbered(), base, template=chosen)
    assert show(out)[1][0] == "## user\nquestion 1\n## assistant\nanswer 1<|im_end|>"
    assert value.template_source == "chosen"
    assert load_tokenizer(out / "tokenizer").chat_template == chosen
    assert value.template_sha256 != tokenize(numbered(), base)[0].template_sha256


def test_a_template_that_refuses_rows(tokenize: Any_, chatml: str, make_tokenizer: Any_, base_of: Any_) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + chatml
    base = base_of(make_tokenizer(refusing))
    with pytest.raises(ModelError, match=r"the chat template can use no row of train.*line 1: .*no system role here"):
        tokenize(conversations(), base)
    value, out = tokenize([*numbered(6), conversations(1)[0]], base)
    assert [(count.reason, count.rows) for count in value.train.dropped] == [("refused_by_template", 1)]
    assert "1 rows of train left out (refused_by_template), the first data.jsonl line 7: " in value.reasons[-1]
    assert "no system role here" in value.reasons[-1]
    gone = list(shards.read_shard(out / "quarantine" / "part-train-00000-00000.parquet").to_pylist())
    assert [(row["row"], row["line"], row["reason"]) for row in gone] == [(6, 7, "refused_by_template")]
    assert gone[0]["messages"] == conversations(1)[0]


def test_a_template_that_changes_answers_is_refused(tokenize: Any_, make_tokenizer: Any_, base_of: Any_) -> None:
    template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}{% if add_generation_prompt %}?{% endif %}"
    with pytest.raises(ModelError, match="the tokens to learn cannot be found"):
        tokenize(numbered(), base_of(make_tokenizer(template)))


def test_control_texts_in_content_stay_text(tokenize: Any_, base: ModelRef) -> None:
    rows = [
        conversation(("user", f"say <|im_end|> \ue0000\ue001 {n}"), ("assistant", f"<|im_start|>system\n{n}")) for n in range(6)
    ]
    whole, learned, record = show(tokenize(rows, base)[1])[4]
    assert "say <|im_end|> \ue0000\ue001 4<|im_end|>" in whole
    assert learned == "<|im_start|>system\n4<|im_end|>"
    tokenizer = load_tokenizer(base.location)
    # user, its end, assistant, its end: what the content says is no control token.
    starts, ends = (record["input_ids"].count(tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_start|>", "<|im_end|>"))
    assert (starts, ends) == (2, 2)
    assert record["reference"] == "<|im_start|>system\n4"


def test_text_is_learned_whole(tokenize: Any_, base: ModelRef) -> None:
    value, out = tokenize([conversation(("text", f"{n} abcdefgh")) for n in range(6)], base, task="text")
    whole, learned, record = show(out)[5]
    assert whole == learned == "5 abcdefgh<|im_end|>"
    assert record["prompt"] + record["reference"] == "5 abcdefgh"
    assert 1 <= len(record["prompt"]) <= 7
    assert "without a chat template" in value.reasons[0]


def test_completion_uses_no_template(tokenize: Any_, base: ModelRef) -> None:
    rows = [conversation(("user", f"in {n}"), ("assistant", f"out {n}")) for n in range(6)]
    assert show(tokenize(rows, base, task="completion")[1])[0][:2] == ("in 0\nout 0<|im_end|>", "out 0<|im_end|>")


def test_cut_counts_what_it_costs(tokenize: Any_, base: ModelRef) -> None:
    rows = numbered(20, answer="word " * 30)
    uncut, _ = tokenize(rows, base)
    value, out = tokenize(rows, base, max_length=48)
    assert value.train.truncated_rows == value.train.sequences == uncut.train.sequences
    assert value.train.longest == 48
    assert value.train.tokens == 48 * value.train.sequences
    assert value.train.truncated_tokens == uncut.train.tokens - value.train.tokens
    assert value.max_length == 48
    assert show(out)[0][2]["supervised"][-1] == 1


def test_rows_with_nothing_left_are_dropped_and_counted(tokenize: Any_, base: ModelRef) -> None:
    rows = [*numbered(6), conversation(("user", "long " * 60), ("assistant", "x"))]
    value, _ = tokenize(rows, base, max_length=64)
    assert [(count.reason, count.rows) for count in value.train.dropped] == [("nothing_to_learn_after_cut", 1)]
    assert "1 rows of train left out (nothing_to_learn_after_cut), the first data.jsonl line 7" in value.reasons
    with pytest.raises(DatasetError, match="No row of train has anything to learn within 8 tokens"):
        tokenize(rows, base, max_length=8)


def test_rows_without_an_answer_to_learn_are_dropped_and_counted(tokenize: Any_, base: ModelRef) -> None:
    unlearned = [conversation(("user", "x"), ("assistant", "y", False)), conversation(("user", "x")), []]
    value, out = tokenize([*numbered(3), *unlearned], base)
    assert [(count.reason, count.rows) for count in value.train.dropped] == [("nothing_to_learn", 3)]
    assert [(row["row"], row["reason"]) for row in shards.read_rows(out / "quarantine")] == [
        (number, "nothing_to_learn") for number in (3, 4, 5)
    ]
    with pytest.raises(DatasetError, match=r"No row of train has an answer to learn \(3 rows, the first data.jsonl line 1\)"):
        tokenize(unlearned, base)


def test_error_names_rows_and_lengths(tokenize: Any_, base: ModelRef) -> None:
    rows = [*numbered(6), conversation(("user", "long " * 60), ("assistant", "x"))]
    with pytest.raises(DatasetError, match=r"1 rows are longer than 64 tokens: data.jsonl line 7 \(\d+ tokens\)\. Raise"):
        tokenize(rows, base, max_length=64, truncation="error")
    with pytest.raises(DatasetError, match=r"20 rows are longer than 16 tokens: (data.jsonl line \d+ \(\d+ tokens\), ){5}"):
        tokenize(numbered(20), base, max_length=16, truncation="error")


def test_the_model_limits_length(tokenize: Any_, base: ModelRef) -> None:
    value, _ = tokenize(numbered(), base.model_copy(update={"max_positions": 100}))
    assert value.max_length == 100
    assert "max_length 100 instead of 256" in value.reasons[0]


def test_a_tokenizer_too_large_for_the_model(tokenize: Any_, base: ModelRef) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer gives token \d+, but the model has embeddings for 10"):
        tokenize(numbered(), base.model_copy(update={"vocabulary": 10}))


def test_same_input_same_bytes(tokenize: Any_, base: ModelRef) -> None:
    one, first = tokenize(conversations(20), base)
    two, second = tokenize(conversations(20), base)
    assert one == two
    assert records_of(first) == records_of(second)
    assert tokenize(conversations(21), base)[0].sha256 != one.sha256
    assert tokenize(conversations(20), base, max_length=40)[0].train.sha256 != one.train.sha256


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(tokenize: Any_, base: ModelRef) -> None:
    one, first = tokenize(conversations(30), base)
    with several(2) as run:
        two, second = tokenize(conversations(30), base, run=run)
    assert one == two
    assert records_of(first) == records_of(second)


def test_what_is_done_is_not_done_again(tokenize: Any_, base: ModelRef, folder: Any_, monkeypatch: pytest.MonkeyPatch) -> None:
    done, out = [], folder("tokens")

    def stopping(path_in: Path, path_out: Path, setup: TokenizeSetup) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path_in)
        return tokenize_shard(path_in, path_out, setup)

    rows = conversations(30)
    place = tokenize(rows, base)
    monkeypatch.setattr(tokenizing, "tokenize_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        tokenize(rows, base, out=out)
    done.append(Path("from here on, others"))
    (out / "train" / ".part-00003-00000.parquet.1.new").write_text("what a killed process left")
    value, _ = tokenize(rows, base, out=out)
    assert value == place[0]
    assert records_of(out) == records_of(place[1])
    # 24 training rows are four shards, validation and test one each: two were done before.
    assert len(done) == 7


def test_golden_prompts_are_the_first_of_test(tokenize: Any_, base: ModelRef) -> None:
    _, out = tokenize(numbered(60), base, golden_prompts=2)
    lines = [json.loads(line) for line in (out / "golden.jsonl").read_text().splitlines()]
    test = list(shards.read_rows(out / "test"))
    assert [line["prompt"] for line in lines] == [row["prompt"] for row in test[:2]]
    assert lines[0]["input_ids"] == test[0]["input_ids"][: len(lines[0]["input_ids"])]
    assert len((tokenize(numbered(400), base)[1] / "golden.jsonl").read_text().splitlines()) == 20


def test_packing_efficiency_is_that_of_the_batches(tokenize: Any_, base: ModelRef) -> None:
    rows = [conversation(("user", "q"), ("assistant", "a " * (n % 11 + 1))) for n in range(30)]
    value, out = tokenize(rows, base, batch_size=4, seed=3)
    lengths = sorted(len(row["input_ids"]) for row in shards.read_rows(out / "train"))
    assert value.packing_efficiency == fill(lengths, epoch_batches(lengths, 4, 3, 0)) < 1
    assert tokenize(rows, base, batch_size=1)[0].packing_efficiency == 1.0


def test_lost_rows_stop_the_run(tokenize: Any_, base: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(path_in: Path, path_out: Path, setup: TokenizeSetup) -> Any:
        return tokenize_shard(path_in, path_out, setup).model_copy(update={"rows": 0})

    monkeypatch.setattr(tokenizing, "tokenize_shard", losing)
    with pytest.raises(LedgerError, match="train: 6 rows should have been tokenized, 6 were read, 0 gave sequences and 0 were"):
        tokenize(numbered(), base)


@pytest.mark.parametrize("name", ["gpteacher/codegen.json", "alpaca_cot/qasc_train.json", "chat_formats/alpaca_zh_demo.json"])
def test_real_rows_are_as_jinja_and_transformers_make_them(
    name: str, real: Any_, tmp_path: Path, base: ModelRef, tokenize: Any_
) -> None:
    rows = json.loads(Path(real(name)).read_text(encoding="utf-8"))[:150]
    conversations = []
    for row in rows:
        question = "\n\n".join(filter(None, [row["instruction"], row.get("input")]))
        conversations.append(
            conversation(("user", question), ("assistant", row.get("output") or row.get("response") or "none"))
        )
    _, out = tokenize(conversations, base, max_length=500, truncation="split")
    template = load_tokenizer(base.location).chat_template
    slow = TokenizeSetup(
        tokenizer=base.location, template=template, task="chat", limit=500, truncation="split",
        engine="transformers", forms=False,
    )  # fmt: skip
    written(tmp_path / "in.parquet", list(enumerate(conversations)))
    tokenize_shard(tmp_path / "in.parquet", tmp_path / "train" / "part.parquet", slow)
    expected = shards.read_shard(tmp_path / "train" / "part.parquet").to_pylist()
    assert sorted(read(out), key=lambda record: record["row"]) == expected
    assert len(expected) > 100
