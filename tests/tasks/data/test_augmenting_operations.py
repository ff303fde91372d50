"""Edits change a little of what is asked, and nothing of what must stay."""

import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.augmenting.draws import Draw
from tasks.data.augmenting.operations import _BESIDE, OPERATIONS
from tasks.data.augmenting.paraphrase import judge, shared_words
from tasks.data.augmenting.protect import quoted, spans
from tasks.data.spec import EditName

SENTENCE = "Please tell me which of the small towns, near London, was founded before the river moved. Do you know it?"


def made(name: str, text: str, answers: str = "", tries: int = 30) -> set[str]:
    """What becomes of a text over some draws."""
    return {OPERATIONS[name].made(text, answers, Draw(seed)) for seed in range(tries)}


def test_the_spec_names_every_operation() -> None:
    assert list(OPERATIONS) == list(get_args(EditName))


EXAMPLES = {
    "keyboard_typo": (
        "the cats", {f"the c{end}" for end in ("sts", "qts", "zts", "ars", "afs", "ays", "ags", "ata", "atd", "atz", "atx")}
    ),
    "letter_swap": ("cats", {"ctas"}),
    "letter_drop": ("word", {"wrd", "wod"}),
    "word_drop": ("what is the name", {"what the name", "what is name"}),
    "word_swap": ("go right now", {"right go now"}),
    "case_change": ("Gone", {"gone"}),
    "punctuation_drop": ("yes, sir", {"yes sir"}),
    "whitespace": ("one two", {"one  two"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_does_what_it_says(name: str) -> None:
    text, expected = EXAMPLES[name]
    assert made(name, text) <= expected
    assert made(name, text)
    assert made(name, SENTENCE) != {SENTENCE}


def test_small_words_may_get_a_capital_or_several() -> None:
    assert made("case_change", "go") == {"Go", "GO"}


def test_keys_beside_a_key() -> None:
    assert _BESIDE["q"] == "wa"
    assert set(_BESIDE["g"]) == set("fhvb")
    assert set(_BESIDE["m"]) == {"n"}


KEPT = (
    "42", "3.14", "2024-01-02", "5kg", "GPT-4", "snake_case", "camelCase", "it's", "a/b", "x@y.org", "https://some.site/page",
    "www.site.org/page", "{name}", "[PLACE]", "<user>", "%date%", "$PATH", "`some code`", "```\nsome code\n```", '"said so"',
    "“said so”", "«said so»", "'said so'", "$x plus y$", "天气很好", "สวัสดี", "नमस्ते",
)  # fmt: skip


@pytest.mark.parametrize("part", KEPT)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_must_stay_stays(name: str, part: str) -> None:
    for text in made(name, f"please take {part} and look at the other things here, okay"):
        assert part in text
    assert made(name, part) == {part}


@pytest.mark.parametrize("name", ["keyboard_typo", "letter_swap", "letter_drop", "word_swap", "case_change"])
def test_words_of_the_answer_and_words_that_turn_a_sentence_round_stay(name: str) -> None:
    assert made(name, "Paris never sleeps", answers="paris never sleeps") == {"Paris never sleeps"}
    assert made(name, "without none except") == {"without none except"}
    assert made(name, "which towns sleep", answers="") != {"which towns sleep"}


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=120), st.sampled_from(sorted(OPERATIONS)), st.integers(0, 2**64 - 1))
def test_digits_quotations_and_most_of_the_text_stay(text: str, name: str, seed: int) -> None:
    after = OPERATIONS[name].made(text, "", Draw(seed))
    assert re.findall(r"\d", after) == re.findall(r"\d", text)
    assert all(part in after for part in quoted(text))
    assert abs(len(after) - len(text)) <= max(8, len(text) // 5)
    assert OPERATIONS[name].made(text, "", Draw(seed)) == after


def test_long_texts_are_edited_in_proportion() -> None:
    text = " ".join(["little"] * 200)
    changed = [word for word in OPERATIONS["letter_drop"].made(text, "", Draw(1)).split() if word != "little"]
    assert 8 <= len(changed) <= 10


def test_draws_are_the_published_ones() -> None:
    """The first numbers of SplitMix64 from the state 1234567 (Vigna's reference code)."""
    draw = Draw(1234567)
    assert [draw.below(2**64) for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_spans() -> None:
    assert quoted('say "a b" and {x}, see https://a.b/c now') == ['"a b"', "{x}", "https://a.b/c"]
    assert spans("it's Tom's, isn't it") == []
    assert quoted("```\nopen") == ["```\nopen"]


JUDGED = {
    "": ("How tall is the tower in Paris, in 2024?", "What is the height of the tower in Paris in 2024?"),
    "paraphrase_empty": ("What is it?", " "),
    "paraphrase_other_numbers": ("Add 3 and 4 for me now", "Sum 3 and 5 for me now"),
    "paraphrase_lost_name": ("How tall is the tower in Paris these days", "What is the height of the tower these days"),
    "paraphrase_lost_quotation": ('Say "yes sir" in French to me', "Say yes sir in French for me"),
    "paraphrase_too_unlike": ("How tall is the old tower", "Name its height"),
    "paraphrase_too_alike": ("How tall is the old tower", "how TALL is the old tower"),
}


@pytest.mark.parametrize("reason", JUDGED)
def test_paraphrases_are_judged(reason: str) -> None:
    assert judge(*JUDGED[reason], low=0.3, high=0.9) == reason


def test_the_band_decides() -> None:
    text, rewritten = "one two three four", "one two three five"
    assert shared_words(text, rewritten) == 3 / 5
    assert judge(text, rewritten, low=0.6, high=0.6) == ""
    assert judge(text, rewritten, low=0.61, high=0.9) == "paraphrase_too_unlike"
    assert judge(text, rewritten, low=0.1, high=0.59) == "paraphrase_too_alike"
    assert shared_words("天气好", "天气坏") == 2 / 4
