"""Repairs of texts. Each is the identity on a text that is in order, and made twice it is made once.

Over a column a cheap pattern finds the candidates, and Python mends only those.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import polars as pl

from tasks.data.prose import CODE, FENCED, change_prose, prose_of

Repair = Callable[[str], str]
Changed = dict[str, pl.Series]

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
    "|(?<![\u0300-\u1fff\u2070-\ufefe\uff00-\U0010ffff])[\u200c\u200d]"
)
# Marks that steer the direction of writing. Where a right-to-left letter stands they decide how numbers and Latin words
# between are read; elsewhere they are left over from a web page, or hide what a line says.
_STEERING = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u061b\u061d-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_RETURNS = re.compile(r"\r\n?")
_SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # what str.strip() removes
_LITERAL = re.compile(r"(?:\\r)?\\n")  # the two characters, not a line break
# Backslashes that are meant: another escape, a path, a quoted line break, a formula.
_MEANT = (
    r"\\[^nrt\"']|\\$|\b[C-Zcd]:\\|\\[nrt]\w*\.[a-z]{2,4}\b|\"\\n\"|'\\n'"
    r"|\\n(?:eq?|u|abla|otin|olimits|onumber|ewcommand|ewline|earrow|warrow|mid|leq|geq|parallel|exists)(?:[^A-Za-z]|$)"
)
_CODE_OR_MEANT = re.compile(f"{CODE}|{_MEANT}")
ENOUGH_LITERALS = 0.05  # of a source's texts: an export that escaped its text, rather than a text that quotes a program


def repair(texts: pl.Series, names: Sequence[str], chosen: Mapping[str, pl.Series] | None = None) -> tuple[pl.Series, Changed]:
    """The texts after the named repairs, in the order of the names, and for each which texts it changed.

    Args:
        texts: contents of turns, none of them null.
        names: of RULES.
        chosen: for a repair, which texts it may change (a Boolean each); all where it is not named.
    """
    changed = {}
    for name in names:
        places = _CANDIDATES[name](texts)
        if chosen and name in chosen:
            places = places.filter(chosen[name].gather(places))
        mended = mend_some(texts, places, RULES[name])
        changed[name], texts = mended != texts, mended
    return texts, changed


def mend_some(texts: pl.Series, places: pl.Series, mend: Repair) -> pl.Series:
    """The texts, with `mend` made to those at `places`."""
    if not len(places):
        return texts
    return texts.clone().scatter(places, [mend(text) for text in texts.gather(places).to_list()])


def places_of(texts: pl.Series, pattern: str, among: pl.Series | None = None) -> pl.Series:
    """Where the pattern is found; `among` are the places to look at, all where None."""
    if among is None:
        return texts.str.contains(pattern).arg_true()
    return among.filter(texts.gather(among).str.contains(pattern))


def beyond_ascii(texts: pl.Series) -> pl.Series:
    """The places of the texts that hold more than ASCII."""
    return (texts.str.len_bytes() != texts.str.len_chars()).arg_true()


def repair_encoding(text: str) -> str:
    """Mend text decoded as the wrong encoding, outside ``` fences; quotes and HTML stay as they are."""
    if text.isascii() or not MOJIBAKE.search(text):
        return text
    import ftfy

    return change_prose(text, lambda prose: str(ftfy.fix_text(prose, _configuration())), FENCED)


def strip_control(text: str) -> str:
    """Remove control and zero-width characters, and marks of direction where no right-to-left letter stands."""
    text = CONTROL.sub("", text)
    return text if _RIGHT_TO_LEFT.search(text) else _STEERING.sub("", text)


def unescape_newlines(text: str) -> str:
    r"""Make the two characters \n a line break, outside code; for a text that `holds_literal_newlines`."""
    return change_prose(text, lambda prose: _LITERAL.sub("\n", prose))


def strip_whitespace(text: str) -> str:
    """Line breaks as one character each, and nothing but content at either end."""
    return (_RETURNS.sub("\n", text) if "\r" in text else text).strip()


RULES: dict[str, Repair] = {  # every repair, in the order they are made
    "repair_encoding": repair_encoding,
    "strip_control": strip_control,
    "unescape_newlines": unescape_newlines,
    "strip_whitespace": strip_whitespace,
}
REPAIRS = {name: rule for name, rule in RULES.items() if name != "unescape_newlines"}  # those that no source needs to choose
_INVISIBLE = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2060\ufeff\u200b-\u200f\u061c\u202a-\u202e\u2066-\u2069]"
_CANDIDATES: dict[str, Callable[[pl.Series], pl.Series]] = {
    "repair_encoding": lambda texts: places_of(texts, MOJIBAKE.pattern, beyond_ascii(texts)),
    "strip_control": lambda texts: places_of(texts, _INVISIBLE),
    "unescape_newlines": lambda texts: holds_literal_newlines(texts).arg_true(),
    "strip_whitespace": lambda texts: places_of(texts, rf"\r|\A[{_SPACE}]|[{_SPACE}]\z"),
}


def holds_literal_newlines(texts: pl.Series) -> pl.Series:
    r"""Which texts hold the two characters \n in prose.

    Not in ``` fences or `backticks`, and not in a text that looks like code, a formula, a regular expression or a path:
    one with another backslash than \n, \r, \t and escaped quotes.
    """
    places = texts.str.contains("\\n", literal=True).arg_true()
    found = texts.gather(places)
    quoted, meant = found.str.contains("`", literal=True), found.str.contains(_CODE_OR_MEANT.pattern)
    held = [_holds_literal(text) if ticks else not code for text, ticks, code in zip(found, quoted, meant, strict=True)]
    return pl.repeat(False, len(texts), eager=True).scatter(places, held)


def _holds_literal(text: str) -> bool:
    prose = prose_of(text)
    return "\\n" in prose and not _CODE_OR_MEANT.search(prose)


def count_literal_newlines(texts: pl.Series, sources: pl.Series) -> dict[Any, tuple[int, int]]:
    r"""For each source, how many texts hold a literal \n in prose, and how many texts it has. Counts of shards add up."""
    frame = pl.DataFrame({"source": sources, "held": holds_literal_newlines(texts)})
    counted = frame.group_by("source").agg(pl.col("held").sum(), pl.len()).sort("source")
    return {source: (held, total) for source, held, total in counted.iter_rows()}


def literal_newline_share(texts: pl.Series, sources: pl.Series) -> dict[Any, float]:
    r"""For each source, the share of its texts that hold a literal \n in prose; `ENOUGH_LITERALS` is the least to act on."""
    return {source: held / total for source, (held, total) in count_literal_newlines(texts, sources).items()}


@lru_cache(maxsize=1)
def _configuration() -> Any:
    """Encoding alone: every other habit of ftfy is off."""
    import ftfy

    off = ("unescape_html", "uncurl_quotes", "fix_latin_ligatures", "fix_character_width", "fix_line_breaks")
    more = ("remove_terminal_escapes", "remove_control_chars", "fix_surrogates", "explain")
    return ftfy.TextFixerConfig(**dict.fromkeys((*off, *more), False), normalization=None)
