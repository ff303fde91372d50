"""Personal data and secrets in texts, found by their form: a pattern over the column, then a check of each hit.

What has the form of an address or a number counts, also where it was made up for an example. Names of persons have no form:
for them there is `tasks.data.presidio`.
"""

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from tasks.data.pii_forms import FORMS, Pattern
from tasks.errors import RequestError, unknown_name

KINDS = tuple(FORMS)  # where two overlap, the earlier one holds


class Span(NamedTuple):
    """Where something stands in a text."""

    start: int
    end: int
    kind: str


def find(texts: pl.Series, kinds: Sequence[str] = KINDS) -> dict[str, pl.Series]:
    """For each kind, how many each text holds.

    Raises:
        RequestError: a kind is unknown.
    """
    return counted(texts, kinds, _hits(texts, kinds))


def redact(texts: pl.Series, kinds: Sequence[str] = KINDS) -> tuple[pl.Series, dict[str, pl.Series]]:
    """The texts with [EMAIL], [PHONE], ... in place of what was found, and for each kind which texts changed.

    Raises:
        RequestError: a kind is unknown.
    """
    return covered(texts, kinds, _hits(texts, kinds))


def spans_of(text: str, kinds: Sequence[str] = KINDS) -> list[Span]:
    """What one text holds, in its order and without overlaps."""
    found = list[Span]()
    for kind in sorted(kinds, key=KINDS.index):
        for span in _matches(text, kind, FORMS[kind].patterns):
            place = bisect(found, span)
            clear_before = place == 0 or found[place - 1].end <= span.start
            if clear_before and (place == len(found) or span.end <= found[place].start):
                found.insert(place, span)
    return found


def counted(texts: pl.Series, kinds: Sequence[str], hits: Mapping[int, Sequence[Span]]) -> dict[str, pl.Series]:
    """For each kind, how many spans each text has; `hits` are the spans by the places of their texts."""
    places = pl.Series(list(hits), dtype=pl.UInt32)
    found = {kind: [sum(span.kind == kind for span in spans) for spans in hits.values()] for kind in kinds}
    zeros = pl.repeat(0, len(texts), dtype=pl.UInt32, eager=True)
    return {kind: zeros.clone().scatter(places, counts) if counts else zeros for kind, counts in found.items()}


def covered(
    texts: pl.Series, kinds: Sequence[str], hits: Mapping[int, Sequence[Span]]
) -> tuple[pl.Series, dict[str, pl.Series]]:
    """The texts with each span's kind in its place, and for each kind which texts changed."""
    changed = {kind: counts > 0 for kind, counts in counted(texts, kinds, hits).items()}
    held = [(place, spans) for place, spans in hits.items() if spans]
    if not held:
        return texts, changed
    places = pl.Series([place for place, _ in held], dtype=pl.UInt32)
    found = texts.gather(places).to_list()
    return texts.clone().scatter(places, [cover(text, spans) for text, (_, spans) in zip(found, held, strict=True)]), changed


def cover(text: str, spans: Sequence[Span]) -> str:
    """The text with each span's kind in its place."""
    parts, last = [], 0
    for span in spans:
        parts += [text[last : span.start], f"[{span.kind.upper()}]"]
        last = span.end
    return "".join([*parts, text[last:]])


def _hits(texts: pl.Series, kinds: Sequence[str]) -> dict[int, list[Span]]:
    """The spans of every text that may hold one."""
    for kind in kinds:
        if kind not in FORMS:
            raise RequestError(unknown_name("kind of personal data", kind, KINDS))
    suspected: dict[int, set[str]] = {}
    for gate, sharing in _gates(kinds):
        for place in texts.str.contains(gate).arg_true().to_list():
            suspected.setdefault(place, set()).update(sharing)
    places = sorted(suspected)
    found = texts.gather(pl.Series(places, dtype=pl.UInt32)).to_list()
    return {place: spans_of(text, list(suspected[place])) for place, text in zip(places, found, strict=True)}


def _gates(kinds: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each gate once, with the kinds behind it."""
    for gate in dict.fromkeys(gate for kind in kinds for gate in FORMS[kind].gates):
        yield gate, [kind for kind in kinds if gate in FORMS[kind].gates]


def _matches(text: str, kind: str, patterns: Sequence[Pattern]) -> Iterator[Span]:
    for pattern, check in patterns:
        for match in pattern.finditer(text):
            group = match.lastindex or 0
            if check is None or check(match):
                yield Span(match.start(group), match.end(group), kind)
