"""Conversations to token ids, some thousand rows at a time, with a mark on every token that is learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.data.fast_tokens import Bounds, Ids, TextEncoder, joined, starts_of
from tasks.data.rendering import Rendered, Renderer, TemplateError
from tasks.data.rows import Message
from tasks.data.shards import Turns
from tasks.data.templates import Forms, Roles, is_usual, roles_of, turns_of

if TYPE_CHECKING:
    import pyarrow as pa

REFUSED = "refused_by_template"
NOTHING = "nothing_to_learn"
Marks = NDArray[np.int8]


class Refusal(NamedTuple):
    """A row that gives no sequence: its place in the batch, the reason's name, and what was said."""

    place: int
    reason: str
    said: str


@dataclass(frozen=True)
class Block:
    """Rows as tokens, one after the other and uncut.

    Row i is `ids[bounds[i]:bounds[i + 1]]`; its segments are `first[i]` to `first[i + 1]`, and segment s begins at token
    `segments[s]`.
    """

    rendered: list[Rendered]
    ids: Ids
    marks: Marks
    segments: Bounds
    first: Bounds

    @cached_property
    def bounds(self) -> Bounds:
        """Where each row begins, and at last where all end."""
        return np.asarray(self.segments[self.first], np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.bounds)

    def learns(self) -> NDArray[np.bool_]:
        """Whether each row has a token to learn; the first is predicted from nothing, so it teaches nothing."""
        so_far = np.concatenate([[0], np.cumsum(self.marks, dtype=np.int64)])
        starts, ends = self.bounds[:-1], self.bounds[1:]
        return np.asarray(so_far[ends] > so_far[np.minimum(starts + 1, ends)], np.bool_)

    def row_segments(self, row: int) -> Bounds:
        """Where the segments of a row begin, counted from the row's first token, and at last where it ends."""
        return np.asarray(self.segments[self.first[row] : self.first[row + 1] + 1] - self.bounds[row], np.int64)


class Encoder:
    """Renders and encodes conversations."""

    def __init__(self, renderer: Renderer, forms: Forms, texts: TextEncoder) -> None:
        self.renderer, self.forms, self.texts = renderer, forms, texts
        self._sizes: dict[str, int] = {}

    def encode(self, table: "pa.Table") -> tuple[Block, list[int], list[Refusal]]:
        """The rows of a table as tokens, the places in the table of those that gave any, and the others."""
        import polars as pl

        turns = Turns.of(table)
        odd = turns.content.str.contains_any(self.forms.odd) | (turns.content.str.strip_chars() == "")
        is_odd = turns.any_of(np.asarray(odd.fill_null(value=True).to_numpy(), np.bool_))
        contents: list[str] = turns.content.fill_null("").to_list()
        role = pl.select(pl.when(turns.learn).then(turns.role).otherwise("~" + turns.role)).to_series()
        roles: list[str] = role.to_list()
        ends = np.searchsorted(turns.row, np.arange(turns.count + 1)).tolist()
        orders: list[Roles] = [tuple(roles[start:end]) for start, end in pairwise(ends)]
        counts: dict[Roles, int] = {}
        for order in orders:
            counts[order] = counts.get(order, 0) + 1
        forms = {order: self.forms.form(order, rows) for order, rows in counts.items() if _is_taught(order)}
        self.renderer.notes |= {note for form in forms.values() if form for note in form.notes}
        rendered, places, refused = list[Rendered](), list[int](), list[Refusal]()
        for index, order in enumerate(orders):
            if order not in forms:
                refused.append(Refusal(index, NOTHING, "no answer in it is learned"))
                continue
            said, form = contents[ends[index] : ends[index + 1]], forms[order]
            try:
                one = form.fill(said) if form and not is_odd[index] else self.renderer.render(turns_of(order, said))
            except TemplateError as error:
                refused.append(Refusal(index, REFUSED, str(error)))
                continue
            rendered.append(one)
            places.append(index)
        return self.block(rendered), places, refused

    def encode_turns(self, messages: Sequence[Message]) -> Block | None:
        """One conversation as tokens; None where the template refuses it."""
        contents = [message["content"] for message in messages]
        form = self.forms.form(roles_of(messages), 1) if is_usual(contents, self.forms.odd) else None
        try:
            return self.block([form.fill(contents) if form else self.renderer.render(messages)])
        except TemplateError:
            return None

    def block(self, rendered: list[Rendered]) -> Block:
        """Rendered conversations as tokens."""
        texts: list[str] = []
        plain: list[bool] = []
        pieces: list[int] = []  # of each segment
        learned: list[bool] = []
        for one in rendered:
            for text, is_learned, _, _ in one.segments:
                learned.append(is_learned)
                if "\ue000" not in text:
                    texts.append(text)
                    plain.append(False)
                    pieces.append(1)
                    continue
                parts = self.renderer.pieces(text)
                texts += [part for part, _ in parts]
                plain += [is_plain for _, is_plain in parts]
                pieces.append(len(parts))
        ids, bounds = self.encode_pieces(texts, plain)
        segments = bounds[starts_of(np.asarray(pieces, np.int64))]
        marks = np.repeat(np.asarray(learned, np.int8), np.diff(segments))
        first = starts_of(np.fromiter((len(one.segments) for one in rendered), np.int64, len(rendered)))
        return Block(rendered, ids, marks, segments, first)

    def encode_pieces(self, texts: Sequence[str], plain: Sequence[bool]) -> tuple[Ids, Bounds]:
        """Ids of each text; in plain ones the text of a control token is text."""
        if not any(plain):
            return self.texts.encode(texts, control=True)
        found: list[Ids] = [np.zeros(0, np.int32)] * len(texts)
        for kind in (False, True):
            places = [place for place, is_plain in enumerate(plain) if is_plain == kind]
            ids, bounds = self.texts.encode([texts[place] for place in places], control=not kind)
            for place, one in zip(places, np.split(ids, bounds[1:-1]), strict=bool(places)):
                found[place] = one
        return joined(found)

    def size(self, text: str) -> int:
        """Tokens of one of the template's own texts."""
        if text not in self._sizes:
            self._sizes[text] = len(self.texts.encode([text], control=True)[0])
        return self._sizes[text]

    def is_edge(self, text: str, at_end: bool) -> bool:
        """Whether a text ends (or begins) with a control token, so that no token reaches over that end."""
        texts = self.renderer.controls
        return not text or any(text.endswith(one) if at_end else text.startswith(one) for one in texts)


def _is_taught(order: Roles) -> bool:
    return "assistant" in order or "text" in order
