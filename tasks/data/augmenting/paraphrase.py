"""What a paraphrase must be like to be taken."""

import re
from collections import Counter

from tasks.data.augmenting.protect import quoted

_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
# A capital letter after a word that ends no sentence: a name, not the beginning of a sentence.
_NAME = re.compile(r"(?<=[^\s.!?:;][ \t])[^\W\d_a-z]\w*")
_WORD = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uac00-\ud7af]|\\w+")


def judge(text: str, rewritten: str, low: float, high: float) -> str:
    """Why a paraphrase of `text` is not taken; "" where it is.

    Args:
        text: what was to be said in other words.
        rewritten: the other words.
        low: the least share of their words (Jaccard) that both hold.
        high: the largest.
    """
    if not rewritten.strip():
        return "paraphrase_empty"
    if any(part not in rewritten for part in quoted(text)):
        return "paraphrase_lost_quotation"
    if Counter(_NUMBER.findall(text)) != Counter(_NUMBER.findall(rewritten)):
        return "paraphrase_other_numbers"
    words = set(re.findall(r"\w+", rewritten))
    if any(name not in words for name in _NAME.findall(text)):
        return "paraphrase_lost_name"
    likeness = shared_words(text, rewritten)
    if likeness < low:
        return "paraphrase_too_unlike"
    return "paraphrase_too_alike" if likeness > high else ""


def shared_words(one: str, other: str) -> float:
    """The words that both hold over those that either holds, in lower case; in scripts without blanks each character is one."""
    words = [set(_WORD.findall(text.lower())) for text in (one, other)]
    either = words[0] | words[1]
    return len(words[0] & words[1]) / len(either) if either else 1.0
