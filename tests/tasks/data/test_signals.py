"""Signs of poor rows and sets."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import signals
from tasks.data.rows import normalized

LONG = "a sentence of more than thirty characters"


def test_answers_that_say_the_prompt() -> None:
    prompts = pl.Series(["Who am I?", "same", "  A  B\n", "ΟΔΟΣ", "", "x", f"Shorten: {LONG}.", LONG, "the word here"])
    answers = pl.Series(["You.", "same", "a b", "οδος", "", "y", f" {LONG} ", LONG, "word"])
    assert signals.answer_is_prompt(prompts, answers).to_list() == [False, True, True, True, False, False, False, True, False]
    assert signals.answer_in_prompt(prompts, answers).to_list() == [False] * 6 + [True, False, False]


TEXT = st.text(alphabet="aA ςσΣıİ\n\u00a0ß", max_size=5)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=20))
def test_the_same_prompt_is_the_same_after_normalizing(pairs: list[tuple[str, str]]) -> None:
    pairs += [(one, one.upper()) for one, _ in pairs]
    found = signals.answer_is_prompt(pl.Series([one for one, _ in pairs]), pl.Series([two for _, two in pairs]))
    for (prompt, answer), same in zip(pairs, found, strict=True):
        if same:
            assert normalized(prompt) == normalized(answer) != ""
        elif prompt == answer:
            assert not normalized(prompt)


REFUSALS = [
    "I'm sorry, but I cannot help with that.",
    "I’m sorry, as an AI I don’t have access to it.",
    "I cannot assist with this request.",
    "I am unable to provide this.", "I apologize, but I can't do so.", "As an AI, I do not have personal experiences.",
    "Lo siento, pero no puedo hacerlo.", "Je suis désolé, mais je ne peux pas le faire.",
    "Es tut mir leid, das kann ich nicht.",
    "Mi dispiace, non posso farlo.", "Desculpe, mas não posso.",
    "很抱歉，我无法提供。", "申し訳ありませんが、お答えできません。",
    "К сожалению, я не могу.",
]  # fmt: skip
NO_REFUSALS = [
    "I'm sorry to hear that you're bored. Here are ideas.", "You cannot divide by zero.", "Sorry seems to be the hardest word.",
    "She said: 'I cannot dance'.", "The engine was unable to start.", "水无法存在。", LONG * 20 + " I cannot help with that.",
]  # fmt: skip


def test_refusals() -> None:
    texts = pl.Series(REFUSALS + NO_REFUSALS)
    assert signals.is_refusal(texts).to_list() == [True] * len(REFUSALS) + [False] * len(NO_REFUSALS)


def test_boilerplate() -> None:
    said = ["Well, as an AI language model, I think so.", "I am a large language model.", "I was trained by Acme.",
            "作为一个AI，我说",             "As of my last update, it was open.", "Als KI habe ich keine Meinung."]  # fmt: skip
    unsaid = ["GPT-3 was developed by OpenAI.", "I'm a language teacher.", "AI is a field.", "As an airline, we fly."]
    assert signals.is_boilerplate(pl.Series(said + unsaid)).to_list() == [True] * len(said) + [False] * len(unsaid)


def test_addresses_alone() -> None:
    texts = pl.Series(
        ["https://x.org/a?b=1", " <http://x.org>\n", "www.x.org, https://y.org", "See https://x.org", "x.org", ""]
    )
    assert signals.is_url_only(texts).to_list() == [True, True, True, False, False, False]


ROWS = np.array([0, 0, 1, 2, 3, 3, 3, 3, 3, 5], dtype=np.int64)
ROLES = pl.Series(["user", "assistant", "user", "assistant", "system", "user", "assistant", "user", "assistant", "text"])


def test_conversations_with_one_side() -> None:
    assert signals.one_sided(ROWS, ROLES, 6).to_list() == [False, True, True, False, False, False]


@pytest.mark.parametrize(("said", "expected"), [(LONG, True), ("Yes.", False)])
def test_conversations_that_repeat_turns(said: str, expected: bool) -> None:
    contents = pl.Series([said, said, said, said, "system", "one", said, "two", said, said])
    assert signals.repeats_turns(ROWS, ROLES, contents, 6).to_list() == [False, False, False, expected, False, False]


def test_spread_of_lengths_adds_up_over_shards() -> None:
    texts = pl.Series(["a" * length for length in (2, 4, 4, 4, 5, 5, 7, 9)])
    whole = signals.lengths_of(texts)
    assert whole == (8, 40, 232)
    assert signals.spread(whole) == 0.4  # deviation 2 over mean 5
    parts = [signals.lengths_of(texts.head(3)), signals.lengths_of(texts.tail(5)), signals.lengths_of(texts.head(0))]
    assert signals.add_lengths(parts) == whole
    assert signals.spread(signals.add_lengths([])) == 0


def test_imbalance_of_labels() -> None:
    assert signals.imbalance({"a": 120, "b": 10, "gone": 0}) == 12 > signals.WIDEST_IMBALANCE
    assert signals.imbalance({"a": 3}) == signals.imbalance({}) == 1


def test_no_rows() -> None:
    none = pl.Series([], dtype=pl.String)
    for found in (
        signals.answer_is_prompt(none, none), signals.answer_in_prompt(none, none), signals.is_refusal(none),
        signals.is_url_only(none), signals.one_sided(ROWS[:0], none, 0), signals.repeats_turns(ROWS[:0], none, none, 0),
    ):  # fmt: skip
        assert (len(found), found.dtype) == (0, pl.Boolean)
