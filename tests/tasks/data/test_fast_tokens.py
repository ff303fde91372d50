"""Fast ids are the tokenizer's own ids, or transformers is used and the reason says why."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import fast_tokens
from tasks.data.fast_tokens import (
    TiktokenEncoder,
    TransformersEncoder,
    build,
    encoder_of,
    first_difference,
    hostile_texts,
    starts_of,
    text_encoder,
)
from tasks.models import load_tokenizer

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = [
    "The quick brown fox's tail isn't 12345 m long; we'll see.\n\n    def f(x):\n        return x  # schön\r\n",
    "日本語の文章 and emoji 👩\u200d👧 and é e\u0301, 100% <b>bold</b>\t\ttabs    spaces",
] * 10


@pytest.fixture(scope="module")
def learn(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A BPE tokenizer with a pre-tokenizer, a normalizer and added tokens of choice, loaded from files."""

    def make(
        pattern: str = "", normalizer: str = "", added: tuple[Any, ...] = (), change: Callable[[Any], Any] = lambda found: found
    ) -> Any:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        learned: Any = Tokenizer(models.BPE())
        steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern))
        learned.pre_tokenizer = pre_tokenizers.Sequence(steps) if pattern else steps[0]
        learned.decoder = decoders.ByteLevel()
        if normalizer:
            learned.normalizer = getattr(normalizers, normalizer)()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        specials = ["<|end|>", "<|start|>"]
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
        learned.train_from_iterator(CORPUS, trainer)
        learned.add_tokens(list(added))
        described = change(json.loads(learned.to_str()))
        fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)), eos_token="<|end|>")
        folder: Path = tmp_path_factory.mktemp("tokenizer")
        fast.save_pretrained(folder)
        return load_tokenizer(folder)

    return make


@pytest.fixture(scope="module")
def gpt2(learn: Any) -> Any:
    return learn()


@pytest.fixture(scope="module")
def gpt4(learn: Any) -> Any:
    return learn(GPT4, "NFC", ("<think>",))


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
def test_byte_level_bpe_is_encoded_by_tiktoken(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    encoder, reason = text_encoder(tokenizer, CORPUS)
    assert (encoder.engine, encoder_of(tokenizer, "tiktoken").engine) == ("tiktoken", "tiktoken")
    count = len(hostile_texts(tokenizer))
    assert count > 1000
    assert f"the same ids as transformers' on 20 real and {count:,} hostile texts" in reason
    ids, bounds = encoder.encode(["The fox", "", "don't <|end|>"], control=True)
    assert tokenizer.decode(ids[bounds[0] : bounds[1]]) == "The fox"
    assert (bounds[1], ids[-1], ids.dtype, bounds.dtype) == (bounds[2], tokenizer.eos_token_id, np.int32, np.int64)


FRAGMENTS = st.sampled_from(
    [
        "<|end|>",
        "<|start|>",
        "<think>",
        " <|end|> ",
        "<|en",
        "\r\n",
        "    ",
        "\u0301",
        "\u200d",
        "'LL",
        "12345",
        "\U0010fffc",
        ">\u0338",
    ]
)
TEXTS = st.lists(st.lists(st.one_of(st.text(max_size=12), FRAGMENTS), max_size=6).map("".join), max_size=6)


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
@settings(max_examples=150, deadline=None)
@given(texts=TEXTS)
def test_any_text_has_the_same_ids(name: str, texts: list[str], request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    fast = encoder_of(tokenizer, "tiktoken")
    assert fast.engine == "tiktoken"
    assert first_difference(fast, TransformersEncoder(tokenizer), texts) == ""


def test_control_texts_are_text_or_tokens_as_asked(gpt4: Any) -> None:
    for encoder in (encoder_of(gpt4, "tiktoken"), TransformersEncoder(gpt4)):
        end, think = gpt4.convert_tokens_to_ids(["<|end|>", "<think>"])
        as_text, _ = encoder.encode(["a<|end|>b<think>"])
        as_token, _ = encoder.encode(["a<|end|>b<think>"], control=True)
        assert end not in as_text
        assert end in as_token
        assert think in as_text  # a token that is no control token is found in text too, as transformers does


def test_what_the_engine_cannot_take_is_encoded_all_the_same(gpt2: Any, gpt4: Any) -> None:
    fast = encoder_of(gpt2, "tiktoken")
    assert isinstance(fast, TiktokenEncoder)
    many = "\n" * 1_000_000  # more than the engine's stack
    with pytest.raises(ValueError, match="Max stack size"):
        fast.encoding.encode_to_numpy(many)
    assert first_difference(fast, TransformersEncoder(gpt2), ["before", many, "after"]) == ""
    # U+10FFFC is what stands between texts; e + U+0301 is not in NFC.
    texts = ["before", "\U0010fffc x \U0010fffc", "e\u0301", "after"]
    assert first_difference(encoder_of(gpt4, "tiktoken"), TransformersEncoder(gpt4), texts) == ""


def test_long_lists_are_several_calls(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = encoder_of(gpt2, "tiktoken")
    texts = [f"text number {n} " * (n % 7) for n in range(200)]
    ids, bounds = fast.encode(texts)
    monkeypatch.setattr(fast_tokens, "_CALL", 50)
    again, others = fast.encode(texts)
    assert np.array_equal(ids, again)
    assert np.array_equal(bounds, others)
    assert starts_of(np.asarray([2, 0, 3])).tolist() == [0, 2, 2, 5]
    assert [part.tolist() for part in fast.encode([])] == [[], [0]]


def shuffled(described: Any) -> Any:
    """The same tokenizer with other ids: ranks are no ids."""
    vocabulary = described["model"]["vocab"]
    fixed = {token["id"] for token in described["added_tokens"]}
    free = sorted(set(vocabulary.values()) - fixed)
    other = dict(zip(free, reversed(free), strict=True))
    described["model"]["vocab"] = {token: other.get(number, number) for token, number in vocabulary.items()}
    return described


def test_ids_need_not_follow_the_merges(learn: Any) -> None:
    tokenizer = learn(GPT4, change=shuffled)
    encoder, _ = text_encoder(tokenizer, CORPUS)
    assert encoder.engine == "tiktoken"
    assert encoder.encode(CORPUS[:1])[0].tolist() == tokenizer(CORPUS[0])["input_ids"]


def with_whole_words(described: Any) -> Any:
    described["model"]["ignore_merges"] = True
    described["model"]["vocab"]["foxes"] = max(described["model"]["vocab"].values()) + 1
    return described


def with_prefix_space(described: Any) -> Any:
    described["pre_tokenizer"]["add_prefix_space"] = True
    return described


def with_digits(described: Any) -> Any:
    digits = {"type": "Digits", "individual_digits": True}
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, described["pre_tokenizer"]]}
    return described


def with_dropout(described: Any) -> Any:
    described["model"]["dropout"] = 1e-9
    return described


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "lower case": ({"normalizer": "Lowercase"}, r"it normalizes text \(Lowercase\)"),
    "whole words": ({"change": with_whole_words}, "1 entries of its vocabulary come from no merge, such as 'foxes'"),
    "prefix space": ({"change": with_prefix_space}, "its pre-tokenizer is not one pattern before byte level"),
    "digits": ({"change": with_digits}, "its pre-tokenizer is not one pattern before byte level"),
    "dropout": ({"change": with_dropout}, "its merges are random"),
    "one token begins another": ({"added": ("<|end|>x",)}, r"its token '<\|end\|>' is the beginning of '<\|end\|>x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_the_same_is_left_to_transformers(name: str, learn: Any) -> None:
    options, reason = REFUSED[name]
    tokenizer = learn(**options)
    encoder, said = text_encoder(tokenizer, CORPUS)
    assert encoder.engine == "transformers"
    assert said.startswith("tokens by transformers: ")
    assert re.search(reason, said), said
    ids, bounds = encoder.encode(["a fox", "a fox", ""])
    assert ids[bounds[1] : bounds[2]].tolist() == tokenizer("a fox")["input_ids"]


def test_tokens_that_take_blanks_beside_them(learn: Any) -> None:
    from tokenizers import AddedToken

    tokenizer = learn(added=(AddedToken("<x>", rstrip=True),))
    assert text_encoder(tokenizer, CORPUS)[1].endswith("its token '<x>' depends on what stands beside it")


def test_another_model_than_bpe() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words: Any = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<e>": 2}, unk_token="<e>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>", unk_token="<e>")
    encoder, reason = text_encoder(tokenizer, ["a b"])
    assert reason == "tokens by transformers: its model is WordLevel, not BPE"
    assert encoder.encode(["a b", "b"])[0].tolist() == [0, 1, 1]
    assert build(object()) == "the tokenizer has no tokenizer.json"  # type: ignore[arg-type]


def test_the_gate_finds_a_difference(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_tokens, "_GPT2", r"\p{L}+|[^\p{L}]")
    encoder, reason = text_encoder(gpt2, CORPUS)
    assert encoder.engine == "transformers"
    assert "tiktoken gives [" in reason
    assert "transformers [" in reason
    monkeypatch.setattr(fast_tokens, "_GPT2", r"(\p{L}+")
    assert "tiktoken cannot use its pattern" in text_encoder(gpt2, CORPUS)[1]


def test_characters_of_tokens(gpt2: Any, gpt4: Any) -> None:
    for tokenizer in (gpt2, gpt4):
        for text in ("The fox's 日本語 👩\u200d👧 end", "e\u0301 combined", ""):
            fast, exact = encoder_of(tokenizer, "tiktoken"), TransformersEncoder(tokenizer)
            ids = exact.encode([text])[0]
            counts = list(range(len(ids) + 2))
            assert fast.characters(text, ids, counts) == exact.characters(text, ids, counts)
            assert fast.characters(text, ids, [0, len(ids)]) == [0, len(text)]


@pytest.mark.parametrize("name", ["gpt2", "gpt4"])
def test_real_texts(name: str, real: Callable[[str], str], request: pytest.FixtureRequest) -> None:
    rows = json.loads(Path(real("gpteacher/codegen.json")).read_text(encoding="utf-8"))[::25]
    texts = [text for row in rows for text in row.values() if isinstance(text, str)]
    tokenizer = request.getfixturevalue(name)
    fast = encoder_of(tokenizer, "tiktoken")
    assert isinstance(fast, TiktokenEncoder)
    assert first_difference(fast, TransformersEncoder(tokenizer), texts) == ""
