"""Text in tables: two columns of a terminal, and Markdown that shows any text as it is."""

import re
import textwrap
from collections.abc import Iterable, Sequence

from tasks.reporting import facts, wording

_COLUMNS = 100
_LABEL, _LONGEST = 18, 40  # letters of a label


def two_columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Labels and texts as lines of at most 100 characters; further lines of a text stand below it."""
    table = [(wording.cut(label, _LONGEST), text) for label, text in rows]
    width = max([_LABEL, *(len(label) for label, _ in table)])
    return [line for label, text in table for line in _wrapped(label, text, width)]


def _wrapped(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        facts.one_line(text) or "-",
        _COLUMNS,
        initial_indent=f"{label:<{width}}  ",
        subsequent_indent=" " * (width + 2),
        break_on_hyphens=False,
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *[[markdown_text(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_list(sentences: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {markdown_text(sentence)}" for sentence in sentences)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", facts.one_line(text).replace("&", "&amp;").replace("<", "&lt;"))
