"""The faults of real instruction sets, put into clean rows one kind at a time and counted."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

from pydantic import Field

from tasks.contracts import Value
from tasks.quickstart.skills import Row

_INVISIBLE = ("\u200b", "\u2060", "\ufeff", "\x07", "\x0b")
_LONG = 30  # words; in a shorter row one changed word is too much for a near-duplicate
_SYNONYMS = {"Read": "Study", "Find": "Search"}


class InstructionCounts(Value):
    """What an instruction set holds; no row has two faults, and duplicates copy rows without any."""

    rows: int = Field(ge=1)  # lines of the file
    distinct: int = Field(ge=1)  # rows that remain when the empty ones and the duplicates are gone
    exact_duplicates: int
    near_duplicates: int
    empty_outputs: int
    empty_instructions: int
    mojibake: int
    invisible: int
    whitespace: int


SHARES = {
    "exact_duplicates": 0.04,
    "near_duplicates": 0.03,
    "empty_outputs": 0.02,
    "empty_instructions": 0.01,
    "mojibake": 0.04,
    "invisible": 0.03,
    "whitespace": 0.05,
}


def counts_for(rows: int) -> InstructionCounts:
    """How many rows of each kind a set of `rows` lines has."""
    counts = {kind: round(rows * share) for kind, share in SHARES.items()}
    gone = ("exact_duplicates", "near_duplicates", "empty_outputs", "empty_instructions")
    return InstructionCounts(rows=rows, distinct=rows - sum(counts[kind] for kind in gone), **counts)


def soil(rows: list[Row], counts: InstructionCounts, random: Random) -> list[Row]:
    """Put the counted faults into `rows`: the result has `counts.rows` rows in a new order.

    Args:
        rows: clean rows, as many as `counts` has distinct and empty ones.
        counts: from `counts_for`.
        random: picks the rows.
    """
    left = random.sample(rows, len(rows))
    long = _take(left, counts.near_duplicates, _is_long)
    near = long + [_reword(row) for row in long]
    damaged = [_garble(row) for row in _take(left, counts.mojibake, _has_accent)]
    damaged += [_hide(row, random) for row in _take(left, counts.invisible)]
    damaged += [_pad(row, random) for row in _take(left, counts.whitespace)]
    damaged += [replace(row, output=random.choice(("", "  "))) for row in _take(left, counts.empty_outputs)]
    damaged += [replace(row, instruction="", input="") for row in _take(left, counts.empty_instructions)]
    exact = random.sample(left, counts.exact_duplicates)
    mixed = left + damaged + near + exact
    random.shuffle(mixed)
    return mixed


def _take(left: list[Row], count: int, fits: Callable[[Row], bool] = lambda _: True) -> list[Row]:
    """Take `count` rows that fit out of `left`."""
    taken = [row for row in left if fits(row)][:count]
    if len(taken) < count:
        raise ValueError(f"{len(taken)} rows fit a fault that {count} rows shall have: ask for more rows.")
    gone = set(taken)
    left[:] = [row for row in left if row not in gone]
    return taken


def _is_long(row: Row) -> bool:
    return len(f"{row.instruction} {row.input}".split()) >= _LONG and row.instruction.split()[0] in _SYNONYMS


def _has_accent(row: Row) -> bool:
    return not (row.instruction + row.input + row.output).isascii()


def _reword(row: Row) -> Row:
    """The row with another first word."""
    first, rest = row.instruction.split(" ", 1)
    return replace(row, instruction=f"{_SYNONYMS[first]} {rest}")


def _garble(row: Row) -> Row:
    """The row as it looks when its UTF-8 bytes were read as Windows-1252."""
    instruction, text, output = (part.encode().decode("cp1252") for part in (row.instruction, row.input, row.output))
    return Row(instruction, text, output)


def _hide(row: Row, random: Random) -> Row:
    """The row with a character that nobody sees after its first and within its last word."""
    mark = random.choice(_INVISIBLE)
    first, rest = row.instruction.split(" ", 1)
    return replace(row, instruction=f"{first}{mark} {rest}", output=f"{row.output[:-1]}{mark}{row.output[-1]}")


def _pad(row: Row, random: Random) -> Row:
    before, after = random.choice(((" ", "  "), ("\n", "\n"), ("\t", " \r\n")))
    return replace(row, instruction=before + row.instruction, output=row.output + after)
