"""Small edits as people make them by mistake. Each is a pattern of what it may change, and what becomes of it.

They look at words of alphabets with capital letters alone, between blanks and before punctuation: numbers, identifiers,
addresses and scripts without capitals do not match.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tasks.data.augmenting.draws import Draw
from tasks.data.augmenting.protect import inside, spans

SHARE = 0.05  # of the places where an edit could be made; one at least
_LOWER = "a-z\u00df-\u00f6\u00f8-\u00ff\u03ac-\u03ce\u0430-\u045f"
_UPPER = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0386-\u03ab\u0400-\u042f"
_BEFORE = r"(?<!\S)"
_AFTER = r"(?=[.,;:!?]*(?!\S))"
_LETTERS = re.compile(f"{_BEFORE}[{_LOWER}]{{4,}}{_AFTER}")
_CASED = re.compile(f"{_BEFORE}[{_UPPER}]?[{_LOWER}]{{2,}}{_AFTER}")
_NEIGHBOURS = re.compile(f"{_BEFORE}[{_LOWER}]{{2,}} [{_LOWER}]{{2,}}(?!\\S)")
_FUNCTION = re.compile(
    rf"{_BEFORE}(?:an?|the|of|that|please|just|really|very|some|is|are|was|were|does|did|do)[ ](?=[{_LOWER}])"
)
_STOPS = re.compile(f"(?<=[{_LOWER}])[.,;!?](?!\\S)")
_BLANKS = re.compile(f"(?<=[{_LOWER},;.]) (?=[{_LOWER}{_UPPER}])")
# Words that turn a sentence round, or join what belongs together: they stay where they are.
_FIXED = frozenset(
    ("not", "no", "nor", "never", "none", "without", "except", "unless", "only", "and", "or", "but", "if", "than", "before",
     "after", "from", "to")
)  # fmt: skip
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """The keys beside and below each key of an American keyboard."""
    found: dict[str, str] = {}
    for row, keys in enumerate(_KEYS):
        for at, key in enumerate(keys):
            below = _KEYS[row + 1][max(0, at - 1) : at + 1] if row + 1 < len(_KEYS) else ""
            found[key] = keys[max(0, at - 1) : at] + keys[at + 1 : at + 2] + below
    return found


_BESIDE = _neighbours()


def keyboard_typo(word: str, draw: Draw) -> str:
    """A letter after the first becomes the one beside it on the keyboard."""
    at = 1 + draw.below(len(word) - 1)
    keys = _BESIDE.get(word[at], "")
    return word[:at] + keys[draw.below(len(keys))] + word[at + 1 :] if keys else word


def letter_swap(word: str, draw: Draw) -> str:
    """Two neighbouring letters within a word change places."""
    at = 1 + draw.below(len(word) - 3)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def letter_drop(word: str, draw: Draw) -> str:
    """A letter within a word is left out."""
    at = 1 + draw.below(len(word) - 2)
    return word[:at] + word[at + 1 :]


def word_drop(_word: str, _draw: Draw) -> str:
    """A function word is left out."""
    return ""


def word_swap(words: str, _draw: Draw) -> str:
    """Two neighbouring words change places."""
    first, second = words.split(" ")
    return f"{second} {first}"


def case_change(word: str, draw: Draw) -> str:
    """A capital letter becomes small; a small word gets one, or is written in capitals."""
    if word[0].isupper():
        return word.lower()
    return word.upper() if draw.below(2) else word.capitalize()


def punctuation_drop(_stop: str, _draw: Draw) -> str:
    """A stop or comma after a word is left out."""
    return ""


def whitespace(_blank: str, _draw: Draw) -> str:
    """A blank between two words is written twice."""
    return "  "


@dataclass(frozen=True)
class Operation:
    """An edit.

    Args:
        pattern: finds what may be changed.
        change: what becomes of one such place; the same text where it cannot be changed.
        keeps_words: whether words that an answer holds, and those that turn a sentence round, are left as they are.
    """

    pattern: re.Pattern[str]
    change: Callable[[str, Draw], str]
    keeps_words: bool = True

    def made(self, text: str, answers: str, draw: Draw) -> str:
        """The text with some places changed; the text itself where there are none.

        Args:
            text: what a user says.
            answers: what the row's answers say, in lower case.
            draw: decides which places and how.
        """
        protected = spans(text)
        places = [match.span() for match in self.pattern.finditer(text)]
        if protected:
            places = [place for place in places if not inside(*place, protected)]
        if not places:
            return text
        for at in reversed(draw.some(len(places), max(1, round(SHARE * len(places))))):
            first, last = places[at]
            found = text[first:last]
            if not self.keeps_words or not any(word in _FIXED or word in answers for word in found.lower().split(" ")):
                text = text[:first] + self.change(found, draw) + text[last:]
        return text


OPERATIONS: Mapping[str, Operation] = {
    "keyboard_typo": Operation(_LETTERS, keyboard_typo),
    "letter_swap": Operation(_LETTERS, letter_swap),
    "letter_drop": Operation(_LETTERS, letter_drop),
    "word_drop": Operation(_FUNCTION, word_drop, keeps_words=False),
    "word_swap": Operation(_NEIGHBOURS, word_swap),
    "case_change": Operation(_CASED, case_change),
    "punctuation_drop": Operation(_STOPS, punctuation_drop, keeps_words=False),
    "whitespace": Operation(_BLANKS, whitespace, keeps_words=False),
}
