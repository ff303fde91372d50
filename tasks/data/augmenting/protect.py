"""What no edit may touch: quotations, code, addresses, placeholders, and words that an answer holds."""

import re

# Runs of text that are left as they are. Numbers and addresses need no entry: edits look at words of letters alone.
_SPANS = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`"  # code
    r"|\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d|\u00ab[^\u00bb\n]*\u00bb|\u201e[^\u201c\u201d\n]*[\u201c\u201d]"  # quotations
    r"|(?<!\w)'[^'\n]+'(?!\w)|(?<!\w)\u2018[^\u2019\n]+\u2019(?!\w)"
    r"|\{[^{}\n]*\}|\[[^\[\]\n]*\]|<[^<>\n]*>|\$[^$\n]+\$|%\w+%|\$\w+"  # placeholders, markup, formulas
    r"|(?:https?://|www\.)\S+",
    re.DOTALL,
)
_OPENERS = re.compile("[`\"\u201c\u00ab\u201e\u2018{\\[<$%]|(?<!\\w)'|://|www\\.")

Span = tuple[int, int]


def spans(text: str) -> list[Span]:
    """Where quotations, code, placeholders and addresses begin and end."""
    return [match.span() for match in _SPANS.finditer(text)] if _OPENERS.search(text) else []


def quoted(text: str) -> list[str]:
    """What stands there."""
    return [text[first:last] for first, last in spans(text)]


def inside(start: int, end: int, protected: list[Span]) -> bool:
    """Whether a stretch of a text touches what is protected."""
    return any(start < last and first < end for first, last in protected)
