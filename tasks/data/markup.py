"""HTML that was left in prose: which texts hold it, and the texts without it."""

import html
import re
from html.entities import html5

import polars as pl

from tasks.data.prose import change_prose, looks_like_code, prose_of
from tasks.data.repairs import mend_some, places_of

_APART = "p|h[1-6]|ul|ol|dl|table|blockquote|section|article|header|footer|figure|hr|pre"  # a blank line stands around
_LINES = "br|div|li|tr|dt|dd|thead|tbody|tfoot|caption|figcaption|center"  # a line of their own
_CELLS = "td|th"
_PAIRED = "a|abbr|b|big|cite|code|del|em|font|i|ins|kbd|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|u|var"
_VOID = "img|wbr"
# Attributes have values, so that `a<b and c>d` is no tag.
_ATTRIBUTES = r"(?:\s+[\w:.-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>]+))*\s*/?"
_TAG = rf"</?(?:{_APART}|{_LINES}|{_CELLS}|{_PAIRED}|{_VOID}){_ATTRIBUTES}>"
_ENTITY = r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});"
# Elements of a page rather than of a text, processing instructions, templates, tags laid out as source: HTML that is meant.
_MEANT = (
    r"(?im)<!doctype|</?(?:html|head|title|body|script|style|form|input|button|label|select|option|textarea|svg|path|link|meta"
    r"|nav|main|iframe|canvas|video|audio|template|slot)\b|<[?%]|^[ \t]+</?[a-z][a-z0-9]*[ >/]|\bclassName="
)
# Words of texts that speak of markup or ask for it.
_ABOUT = (
    r"(?i)\b(?:x?html5?|xml|css|svg|jsx|markup|markdown|bbcode|tags?|web ?pages?|hyperlinks?|php|javascript|jquery|react|"
    r"angular|vue|dom|selectors?|regex|regular expressions?|snippets?|balises?|etiquetas?)\b|标签|标记|网页|タグ|태그"
)
_ONE_TAG, _ANY_ENTITY, _MEANT_HERE = re.compile(_TAG, re.IGNORECASE), re.compile(_ENTITY), re.compile(_MEANT)
_COMMENTS = re.compile(r"<!--(?:(?!<!--)[\s\S])*?-->")
_BREAKS = re.compile(rf"(?<!\s)(?:\s*</?(?:{_APART}|{_LINES}){_ATTRIBUTES}>)+\s*", re.IGNORECASE)
_NEXT_CELL = re.compile(rf"</(?:{_CELLS})>\s*<(?:{_CELLS}){_ATTRIBUTES}>", re.IGNORECASE)
_PARAGRAPH = re.compile(rf"</?(?:{_APART})\b", re.IGNORECASE)
_ITEM = re.compile(rf"<li{_ATTRIBUTES}>\s*\Z", re.IGNORECASE)
_NAME = re.compile(r"<(/?)(\w+)")
_MARKS = {"sup": ("^", ""), "sub": ("_", ""), "code": ("`", "`"), "tt": ("`", "`")}


def strip_html(texts: pl.Series, rows: pl.Series | None = None) -> tuple[pl.Series, pl.Series]:
    """The texts without HTML tags and with entities decoded, and which of them that changed.

    Paragraphs, lines and items keep their breaks, `<sup>` becomes ^, `<code>` becomes backticks; a link keeps its words.
    Only known elements go: `<your name>`, `List<String>` and `<MASK>` stay. Left as it is:

    - what stands in ``` fences or `backticks`;
    - a text that looks like code once its tags are gone, or holds parts of a page (doctype, head, script, form), a
      template, or tags laid out as source;
    - a text that speaks of markup (HTML, tag, web page, ...), and with `rows` every turn of such a conversation: there
      HTML is what was asked for;
    - a text whose inline tags do not pair up, or whose entities spell tags.

    Args:
        texts: contents of turns.
        rows: for each text the row it belongs to; None judges each text for itself.
    """
    places = _candidates(texts, rows)
    mended = mend_some(texts, places, _strip)
    return mended, mended != texts


def holds_html(texts: pl.Series, rows: pl.Series | None = None) -> pl.Series:
    """Which texts `strip_html` would change."""
    return strip_html(texts, rows)[1]


def _candidates(texts: pl.Series, rows: pl.Series | None) -> pl.Series:
    places = places_of(texts, rf"(?i){_TAG}|<!--|{_ENTITY}")
    if rows is None or not len(places):
        return places
    beside = rows.is_in(rows.gather(places).unique().implode()).arg_true()
    about = rows.gather(places_of(texts, _ABOUT, beside)).unique()
    return places.filter(~rows.gather(places).is_in(about.implode()))


def _strip(text: str) -> str:
    prose = _COMMENTS.sub("", prose_of(text))
    bare = _ANY_ENTITY.sub(" ", _ONE_TAG.sub(" ", prose))
    if _MEANT_HERE.search(prose) or re.search(_ABOUT, bare) or looks_like_code(bare) or not _paired(prose):
        return text
    stripped = change_prose(text, _strip_prose)
    if stripped != text and _ONE_TAG.search(prose_of(stripped)):
        return text
    return stripped.strip("\n") if stripped != text else text


def _paired(prose: str) -> bool:
    """Whether every inline element that opens closes."""
    balance: dict[str, int] = {}
    for tag in _ONE_TAG.findall(prose):
        found = _NAME.match(tag)
        if found and re.fullmatch(_PAIRED, found[2], re.IGNORECASE):
            balance[found[2].lower()] = balance.get(found[2].lower(), 0) + (-1 if found[1] else 1)
    return not any(balance.values())


def _strip_prose(prose: str) -> str:
    prose = _COMMENTS.sub("", prose)
    prose = _BREAKS.sub(_break, _NEXT_CELL.sub("\t", prose))
    prose = _ONE_TAG.sub(_mark, prose)
    for _ in range(3):  # &amp;amp;nbsp; was escaped thrice
        prose = _ANY_ENTITY.sub(_decode, prose)
    return prose


def _break(run: re.Match[str]) -> str:
    found = run[0]
    lines = 2 if _PARAGRAPH.search(found) else 1
    return "\n" * lines + ("- " if _ITEM.search(found) else "")


def _mark(tag: re.Match[str]) -> str:
    found = _NAME.match(tag[0])
    opening, closing = _MARKS.get(found[2].lower(), ("", "")) if found else ("", "")
    return closing if found and found[1] else opening


def _decode(entity: re.Match[str]) -> str:
    name = entity[0]
    if name[1] != "#" and name[1:] not in html5:
        return name
    return html.unescape(name).replace("\xa0", " ")
