"""Near-duplicates are found by content, not by preamble, in any script."""

import numpy as np
import pytest

from tasks.data.dedup import Shingler, find_alike, jaccard, without_frequent, words_of

WORDS = [f"w{number}" for number in range(100)]


def changed(*places: int) -> str:
    return " ".join(f"x{index}" if index in places else word for index, word in enumerate(WORDS))


def test_words() -> None:
    assert words_of("Hello,  World\n2+2") == ["hello,", "world", "2+2"]
    assert words_of("学习AI很好") == ["学", "习", "ai", "很", "好"]


def test_jaccard_of_one_changed_word() -> None:
    shingler = Shingler()
    one, other = shingler.shingles(changed()), shingler.shingles(changed(50))
    # 98 3-grams each, 3 of them hold the changed word: 95 common of 101.
    assert len(one) == len(other) == 98
    assert jaccard(one, other) == 95 / 101


@pytest.mark.parametrize(("threshold", "expected"), [(0.3, {1: 0, 2: 0}), (0.85, {1: 0}), (0.94, {1: 0}), (0.95, {})])
def test_threshold_is_exact(threshold: float, expected: dict[int, int]) -> None:
    texts = [changed(), changed(50), changed(10, 20, 30, 40, 50)]  # 95/101 = 0.941 and 83/113 = 0.735 of the first
    assert find_alike(texts, texts, threshold).duplicate_of == expected


def test_answers_must_be_alike_too() -> None:
    texts = [changed() + " yes", changed() + " no"]
    assert find_alike(texts, ["yes", "no"], 0.85).duplicate_of == {}
    assert find_alike(texts, ["yes", "yes"], 0.85).duplicate_of == {1: 0}


def test_shared_preamble_is_no_duplicate() -> None:
    preamble = " ".join(WORDS)
    texts = [f"{preamble} task {n} do {n}a {n}b {n}c {n}d" for n in range(150)]
    assert find_alike(texts, ["same"] * 150, 0.85).duplicate_of == {}
    assert len(find_alike(texts[:100], ["same"] * 100, 0.85).duplicate_of) > 80  # rare enough to count


def test_frequent_shingles_go() -> None:
    common, rare = np.array([1], dtype=np.uint64), np.array([1, 2], dtype=np.uint64)
    assert [list(found) for found in without_frequent([common] * 100 + [rare])][-1] == [2]
    assert [list(found) for found in without_frequent([common] * 99 + [rare])][-1] == [1, 2]


def test_chinese() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(100))
    near = text[:50] + "龙" + text[51:]
    assert find_alike([text, near, text[::-1]], [text, near, text[::-1]], 0.85).duplicate_of == {1: 0}


def test_empty_texts_are_alike_to_nothing() -> None:
    assert find_alike(["", "", "a"], ["", "", "a"], 0.85).duplicate_of == {}
    assert find_alike([], [], 0.85).duplicate_of == {}
