"""Repairs of one text. Each takes a text and returns it mended, and is the identity on text that is in order."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

# A letter that UTF-8 lead bytes become when read as Latin-1 or Windows-1252, then what a continuation byte becomes.
MOJIBAKE = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
    "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
# Control characters but tab and line breaks; zero-width ones but where a script needs them: a zero-width space after
# Thai to Khmer letters, joiners after anything beyond Latin (Arabic, Indic scripts, emoji).
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2060\ufeff]"
    "|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"
    "|(?<![\u0300-\u1fff\u2070-\U0010ffff])[\u200c\u200d]"
)
_FENCED = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_RETURNS = re.compile(r"\r\n?")
Repair = Callable[[str], str]


def repair_encoding(text: str) -> str:
    """Mend text decoded as the wrong encoding, outside ``` fences; quotes and HTML stay as they are."""
    if text.isascii() or not MOJIBAKE.search(text):
        return text
    import ftfy

    parts = _FENCED.split(text)  # fences are the odd parts
    return "".join(part if index % 2 else ftfy.fix_text(part, _configuration()) for index, part in enumerate(parts))


def strip_control(text: str) -> str:
    """Remove control and zero-width characters."""
    return CONTROL.sub("", text)


def strip_whitespace(text: str) -> str:
    """Line breaks as one character each, and nothing but content at either end."""
    return (_RETURNS.sub("\n", text) if "\r" in text else text).strip()


REPAIRS: dict[str, Repair] = {  # in the order they are made
    "repair_encoding": repair_encoding,
    "strip_control": strip_control,
    "strip_whitespace": strip_whitespace,
}


def mend(text: str, names: Iterable[str]) -> tuple[str, list[str]]:
    """The text after the named repairs, and the names of those that changed it."""
    made = []
    for name in names:
        mended = REPAIRS[name](text)
        if mended != text:
            made.append(name)
            text = mended
    return text, made


@lru_cache(maxsize=1)
def _configuration() -> Any:
    """Encoding alone: every other habit of ftfy is off."""
    import ftfy

    off = ("unescape_html", "uncurl_quotes", "fix_latin_ligatures", "fix_character_width", "fix_line_breaks")
    more = ("remove_terminal_escapes", "remove_control_chars", "fix_surrogates", "explain")
    return ftfy.TextFixerConfig(**dict.fromkeys((*off, *more), False), normalization=None)
