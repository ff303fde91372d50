"""Hashed words and pairs are those that plain Python would make."""

from itertools import pairwise

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.shingles import contained, join, words_of

SPLIT_ALIKE = st.characters(codec="utf-8", max_codepoint=0xDFF, exclude_categories=("Lu", "Lt", "Cs"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(SPLIT_ALIKE, max_size=40), max_size=8))
def test_words_are_those_of_split(texts: list[str]) -> None:
    words = words_of(pl.Series(texts, dtype=pl.String))
    expected = [text.lower().split() for text in texts]
    assert words.counts().tolist() == [len(some) for some in expected]
    flat = [word for some in expected for word in some]
    assert len(set(flat)) == len(set(words.flat.tolist()))
    assert len(set(zip(flat, words.flat.tolist(), strict=True))) == len(set(flat))  # equal words, equal hashes
    pairs = [{*some, *pairwise(some)} for some in expected]
    assert words.sets_with_pairs().sizes().tolist() == [len(some) for some in pairs]
    assert words.sets().sizes().tolist() == [len(set(some)) for some in expected]


GOLDEN_THE, GOLDEN_CAT = 14661852480525132737, 2709903978915079102
GOLDEN_SETS = [875771892, 1861763303, 3496866577]


def test_hashes_never_change() -> None:
    """Written down once: what is kept on disk must mean the same on every machine."""
    words = words_of(pl.Series(["The cat", "the CAT sat\n学习"]))
    assert words.starts.tolist() == [0, 2, 7]
    assert words.flat[:2].tolist() == words.flat[2:4].tolist() == [GOLDEN_THE, GOLDEN_CAT]
    assert words.sets_with_pairs().flat[:3].tolist() == GOLDEN_SETS


def test_scripts_without_spaces_have_a_word_a_character() -> None:
    words = words_of(pl.Series(["学习AI很好", "สวัสดี", "x\u00a0y\u3000z", None, "Été É"]))
    assert words.counts().tolist() == [5, 6, 3, 0, 2]


def test_a_text_longer_than_a_chunk() -> None:
    text = " ".join(f"word{number % 1000}" for number in range(100_000))
    words = words_of(pl.Series(["a b", text, "a b"]))
    assert words.counts().tolist() == [2, 100_000, 2]
    assert words.flat[:2].tolist() == words.flat[-2:].tolist()
    assert len(set(words.flat.tolist())) == 1002


def test_sets_are_taken_joined_and_thinned() -> None:
    sets = words_of(pl.Series(["a b c", "", "b d"])).sets()
    assert join([sets, sets]).sizes().tolist() == [3, 0, 2, 3, 0, 2]
    last = sets.take(sets.starts[:0])
    assert (len(last), len(last.flat)) == (0, 0)
    b_and_d = sets.flat[3:]
    assert sets.where(contained(sets.flat, b_and_d)).sizes().tolist() == [1, 0, 2]
    assert not contained(sets.flat, sets.flat[:0]).any()
