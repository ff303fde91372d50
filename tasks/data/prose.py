"""Where a text is code and where it is prose: repairs of prose leave code as it is."""

import re
from collections.abc import Callable

FENCED = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
QUOTED = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
# What programs hold and prose does not. One pattern for Python's engine and for polars'.
CODE = (
    r"(?m)[;{}][ \t\r]*$"  # a line that ends a statement or holds a block
    r"|^[ \t]*(?:#include|#!/|@\w+$)"
    r"|^[ \t]*(?:def|class|func|function|fn|struct|interface|public|private|protected|static)\b.*[:({][ \t\r]*$"
    r"|^[ \t]*(?:import|package|using) [\w.*{}, ]+;?[ \t\r]*$|^[ \t]*from [\w.]+ import\b|^[ \t]*(?:var|let|const) \w+ ="
    r"|\b(?:def|function|class) \w+\(|\bfor \w+ in \w+\(|=> ?[{(]|[\w\])] ?[=!]==? ?['\"\w]|[\w\]] ?(?:\+=|:=|<<|->) ?\w"
    r"|\w\([\"'][^\"']*[\"']\)|\w\(\)|\b(?:printf|println|print|echo|log|split|join|replace)\("
    r"|<\?(?:php|xml|=)|\{\{|\{%|</?[a-z]+:\w|\$\{|\bSELECT (?:\*|\w+(?:, ?\w+)*) FROM\b"
)
_CODE = re.compile(CODE)


def looks_like_code(text: str) -> bool:
    """Whether a text holds what programs hold: statements, calls, declarations, templates."""
    return _CODE.search(text) is not None


def change_prose(text: str, change: Callable[[str], str], code: re.Pattern[str] = QUOTED) -> str:
    """The text with `change` made to what stands outside ``` fences and, with QUOTED, outside `backticks`."""
    if "`" not in text:
        return change(text)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(code.split(text)))


def prose_of(text: str) -> str:
    """What stands outside fences and backticks."""
    return " ".join(QUOTED.split(text)[::2]) if "`" in text else text
