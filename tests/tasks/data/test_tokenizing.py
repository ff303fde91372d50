"""Only answers and their ends are learned, exactly, and every row and token is accounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.batching import epoch_batches, fill
from tasks.contracts import ModelRef
from tasks.data import splitting, tokenizing
from tasks.data.spec import CleaningSpec, SplittingSpec
from tasks.errors import DatasetError, ModelError
from tasks.models import PLAIN_TEMPLATE, load_tokenizer
from tasks.storage import records_of

Any_ = Callable[..., Any]
NAMES = ("train", "validation", "test")
KEEP_SPACE = CleaningSpec(strip_whitespace=False, strip_control=False)


@pytest.fixture
def tokenize(clean: Any_, write: Any_, folder: Any_) -> Any_:
    """Rows through load, clean, split and tokenize."""

    def run(rows: list[Any], base: ModelRef, task: str = "auto", **options: Any) -> tuple[Any, Path]:
        value, place = clean(write(rows), task=task, cleaning=KEEP_SPACE)
        divided: Path = folder("split")
        splits = splitting.split(value, SplittingSpec(), [1.0], place, divided, "mem://split", 0)
        out: Path = folder("tokens")
        files = {name: divided / f"{name}.parquet" for name in NAMES}
        settings = {"max_length": 256, "truncation": "cut", "batch_size": 4, "seed": 0} | options
        return tokenizing.tokenize(splits, base, files, out, "mem://tokens", **settings), out

    return run


@pytest.fixture
def show(rows_of: Any_) -> Any_:
    """(whole text, learned text, record) of every row, by row number."""

    def read(out: Path) -> dict[int, tuple[str, str, dict[str, Any]]]:
        tokenizer = load_tokenizer(out / "tokenizer")
        found = {}
        for record in (record for name in NAMES for record in rows_of(out, name)):
            learned = [i for i, on in zip(record["input_ids"], record["supervised"], strict=True) if on]
            found[record["row"]] = (tokenizer.decode(record["input_ids"]), tokenizer.decode(learned), record)
        return found

    return read


def numbered(count: int = 6, answer: str = "answer") -> list[dict[str, str]]:
    return [{"question": f"question {n}", "answer": f"{answer} {n}"} for n in range(count)]


def test_single_turn(tokenize: Any_, show: Any_, base: ModelRef) -> None:
    value, out = tokenize(numbered(), base)
    whole, learned, record = show(out)[3]
    prompt = "<|im_start|>user\nquestion 3<|im_end|>\n<|im_start|>assistant\n"
    assert (whole, learned) == (prompt + "answer 3<|im_end|>", "answer 3<|im_end|>")
    assert (record["prompt"], record["reference"]) == (prompt, "answer 3")
    ids = load_tokenizer(base.location)(prompt, add_special_tokens=False)["input_ids"]
    assert record["input_ids"][: len(ids)] == ids
    assert sum(part.sequences for part in (value.train, value.validation, value.test)) == 6
    assert value.template_source == "the model's own"
    assert value.reasons == ()


MULTI = [
    {"role": "system", "content": "rules"},
    {"role": "user", "content": "one"}, {"role": "assistant", "content": "first"},
    {"role": "user", "content": "two"}, {"role": "assistant", "content": "second"},
    {"role": "user", "content": "unanswered"},
]  # fmt: skip


def conversations(count: int = 6) -> list[dict[str, Any]]:
    return [{"messages": [{**m, "content": f"{m['content']} {n}"} for m in MULTI]} for n in range(count)]


def test_every_assistant_turn_is_learned(tokenize: Any_, show: Any_, base: ModelRef) -> None:
    whole, learned, record = show(tokenize(conversations(), base)[1])[2]
    assert learned == "first 2<|im_end|>second 2<|im_end|>"
    assert whole.endswith("<|im_start|>assistant\nsecond 2<|im_end|>")
    assert whole.startswith(
        "<|im_start|>system\nrules 2<|im_end|>\n<|im_start|>user\none 2<|im_end|>\n<|im_start|>assistant\nfirst"
    )
    assert record["prompt"].endswith("two 2<|im_end|>\n<|im_start|>assistant\n")
    assert record["reference"] == "second 2"


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
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_other_templates(name: str, tokenize: Any_, show: Any_, make_tokenizer: Any_, base_of: Any_) -> None:
    template, expected, reason = TEMPLATES[name]
    value, out = tokenize(conversations(), base_of(make_tokenizer(template)))
    assert show(out)[2][1] == expected
    assert reason in "".join(value.reasons)


def test_a_tokenizer_without_template_gets_the_plain_one(
    tokenize: Any_, show: Any_, make_tokenizer: Any_, base_of: Any_
) -> None:
    value, out = tokenize(numbered(), base_of(make_tokenizer(None)))
    assert show(out)[1][:2] == ("### user\nquestion 1\n### assistant\nanswer 1<|im_end|>", "answer 1<|im_end|>")
    assert value.template_source == "plain"
    assert value.reasons == ("the tokenizer has no chat template, so the plain one is set",)
    assert load_tokenizer(out / "tokenizer").chat_template == PLAIN_TEMPLATE


def test_a_template_that_refuses_rows(tokenize: Any_, chatml: str, make_tokenizer: Any_, base_of: Any_) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}" + chatml
    base = base_of(make_tokenizer(refusing))
    with pytest.raises(ModelError, match=r"the chat template can use no row of train.*line .*no system role here"):
        tokenize(conversations(), base)
    mixed = [*numbered_messages(20), conversations(1)[0]]
    value, _ = tokenize(mixed, base)
    dropped = [count for name in NAMES for count in getattr(value, name).dropped]
    assert [(count.reason, count.rows) for count in dropped] == [("refused_by_template", 1)]
    assert "no system role here" in value.reasons[-1]


def numbered_messages(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]} for n in range(count)
    ]


def test_a_template_that_changes_answers_is_refused(tokenize: Any_, make_tokenizer: Any_, base_of: Any_) -> None:
    template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}{% if add_generation_prompt %}?{% endif %}"
    with pytest.raises(ModelError, match="the tokens to learn cannot be found"):
        tokenize(numbered(), base_of(make_tokenizer(template)))


def test_control_texts_in_content_stay_text(tokenize: Any_, show: Any_, base: ModelRef) -> None:
    rows = [{"question": f"say <|im_end|> {n}", "answer": f"<|im_start|>system\n{n}"} for n in range(6)]
    whole, learned, record = show(tokenize(rows, base)[1])[4]
    assert "say <|im_end|> 4<|im_end|>" in whole
    assert learned == "<|im_start|>system\n4<|im_end|>"
    tokenizer = load_tokenizer(base.location)
    # user, its end, assistant, its end: what the content says is no control token.
    starts, ends = (record["input_ids"].count(tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_start|>", "<|im_end|>"))
    assert (starts, ends) == (2, 2)
    assert record["reference"] == "<|im_start|>system\n4"


def test_text_is_learned_whole(tokenize: Any_, show: Any_, base: ModelRef) -> None:
    value, out = tokenize([{"text": f"{n} abcdefgh"} for n in range(6)], base)
    whole, learned, record = show(out)[5]
    assert whole == learned == "5 abcdefgh<|im_end|>"
    assert record["prompt"] + record["reference"] == "5 abcdefgh"
    assert 3 <= len(record["prompt"]) <= 7
    assert "without a chat template" in value.reasons[0]


def test_completion_uses_no_template(tokenize: Any_, show: Any_, base: ModelRef) -> None:
    rows = [{"prompt": f"in {n}", "completion": f"out {n}"} for n in range(6)]
    assert show(tokenize(rows, base)[1])[0][:2] == ("in 0\nout 0<|im_end|>", "out 0<|im_end|>")
    assert show(tokenize(rows, base, task="chat")[1])[0][0].startswith("<|im_start|>user\nin 0")


def test_cut_counts_what_it_costs(tokenize: Any_, show: Any_, rows_of: Any_, base: ModelRef) -> None:
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
    rows = [*numbered(20), {"question": "long " * 60, "answer": "x"}]
    value, _ = tokenize(rows, base, max_length=64)
    dropped = [(count.reason, count.rows) for name in NAMES for count in getattr(value, name).dropped]
    assert dropped == [("nothing_to_learn_after_cut", 1)]
    with pytest.raises(DatasetError, match="No row of train has anything to learn within 8 tokens"):
        tokenize(rows, base, max_length=8)


def test_error_names_rows_and_lengths(tokenize: Any_, base: ModelRef) -> None:
    rows = [*numbered(20), {"question": "long " * 60, "answer": "x"}]
    with pytest.raises(DatasetError, match=r"1 rows are longer than 64 tokens: .*data.jsonl line 21 \(\d+ tokens\)\."):
        tokenize(rows, base, max_length=64, truncation="error")


def test_the_model_limits_length(tokenize: Any_, base: ModelRef) -> None:
    value, _ = tokenize(numbered(), base.model_copy(update={"max_positions": 100}))
    assert value.max_length == 100
    assert "max_length 100 instead of 256" in value.reasons[0]


def test_a_tokenizer_too_large_for_the_model(tokenize: Any_, base: ModelRef) -> None:
    with pytest.raises(ModelError, match=r"the tokenizer gives token \d+, but the model has embeddings for 10"):
        tokenize(numbered(), base.model_copy(update={"vocabulary": 10}))


def test_same_input_same_bytes(tokenize: Any_, base: ModelRef) -> None:
    one, first = tokenize(conversations(), base)
    two, second = tokenize(conversations(), base)
    assert one == two
    assert records_of(first) == records_of(second)
    assert tokenize(conversations(7), base)[0].sha256 != one.sha256


def test_golden_prompts_are_the_first_of_test(tokenize: Any_, rows_of: Any_, base: ModelRef) -> None:
    _, out = tokenize(numbered(60), base, golden_prompts=2)
    lines = [json.loads(line) for line in (out / "golden.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [row["prompt"] for row in rows_of(out, "test")[:2]]
    first = rows_of(out, "test")[0]
    assert lines[0]["input_ids"] == first["input_ids"][: len(lines[0]["input_ids"])]


def test_packing_efficiency_is_that_of_the_batches(tokenize: Any_, rows_of: Any_, base: ModelRef) -> None:
    value, out = tokenize(numbered(30), base, batch_size=4, seed=3)
    lengths = [len(row["input_ids"]) for row in rows_of(out, "train")]
    assert value.packing_efficiency == fill(lengths, epoch_batches(lengths, 4, 3, 0))
    assert tokenize(numbered(30), base, batch_size=1)[0].packing_efficiency == 1.0
