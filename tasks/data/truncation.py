"""What becomes of rows longer than the limit: cut at the end, or divided into several sequences; and what that costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from tasks.data.encoding import Block, Encoder, Marks
from tasks.data.fast_tokens import Ids
from tasks.data.rendering import last_learned
from tasks.data.rows import Message

Truncation = Literal["error", "cut", "split"]


class Stretch(NamedTuple):
    """One sequence: tokens `start` to `end` of a row of a block."""

    block: Block
    row: int
    start: int
    end: int
    lead: int = 0  # tokens at the row's beginning that come again before `start`

    def is_whole(self) -> bool:
        """Whether nothing of the row is missing."""
        return self.start == 0 and self.end == int(self.block.lengths[self.row])

    def learns(self) -> bool:
        """Whether a token is learned; the first is predicted from nothing, so it teaches nothing."""
        first = self.block.bounds[self.row]
        after = self.start if self.lead else self.start + 1
        return bool(self.block.marks[first + after : first + self.end].any())

    def tokens(self) -> tuple[Ids, Marks]:
        """Its ids and marks."""
        first = self.block.bounds[self.row]
        lead, own = slice(first, first + self.lead), slice(first + self.start, first + self.end)
        ids, marks = self.block.ids, self.block.marks
        return np.concatenate([ids[lead], ids[own]]), np.concatenate([marks[lead], marks[own]])


@dataclass(frozen=True)
class Fitted:
    """What one long row became; tokens are those lost and those that came more than once."""

    stretches: list[Stretch]
    lost: int
    repeated: int


def cut(block: Block, row: int, encoder: Encoder, limit: int) -> Stretch:
    """The beginning of a row up to the last token within the limit that is learned, never inside the template's own text.

    What follows the last learned token teaches nothing, so it goes too.
    """
    ends = block.row_segments(row)
    kept = 0
    for index, segment in enumerate(block.rendered[row].segments):
        start, end = int(ends[index]), int(ends[index + 1])
        if start >= limit:
            break
        if not segment.learned:
            continue
        if end <= limit:
            kept = end
            continue
        # One token more where it may reach over the edge between the template's text and the answer.
        head = encoder.size(segment.head) + (not encoder.is_edge(segment.head, at_end=True))
        tail = encoder.size(segment.tail)
        last = end - tail - (not encoder.is_edge(segment.tail, at_end=False)) if tail > 1 else end
        if min(limit, last) > start + head:
            kept = min(limit, last)
        break
    return Stretch(block, row, 0, kept)


def fit(block: Block, row: int, messages: Sequence[Message], encoder: Encoder, limit: int, policy: Truncation) -> Fitted:
    """The sequences of a row that is longer than the limit; none where nothing to learn is left."""
    whole = int(block.lengths[row])
    if policy == "split" and encoder.renderer.task == "text":
        stretches, repeated = _in_pieces(block, row, limit)
        if stretches:
            return Fitted(stretches, 0, repeated)
    found = _by_turns(messages, encoder, limit) if policy == "split" and encoder.renderer.task != "text" else []
    if len(found) < 2:
        one = cut(block, row, encoder, limit)
        return Fitted([one], whole - one.end, 0) if one.learns() else Fitted([], whole, 0)
    stretches, lost, total = [], 0, 0
    for piece in found:
        length = int(piece.lengths[0])
        one = Stretch(piece, 0, 0, length) if length <= limit else cut(piece, 0, encoder, limit)
        stretches += [one] if one.learns() else []
        lost, total = lost + length - (one.end if one.learns() else 0), total + length
    return Fitted(stretches, lost, max(0, total - whole))


def _in_pieces(block: Block, row: int, limit: int) -> tuple[list[Stretch], int]:
    """A plain text in equal pieces; what begins a text begins each of them. None where the limit leaves no room."""
    lead, whole = int(block.row_segments(row)[1]), int(block.lengths[row])
    room = limit - lead
    if room < 2:
        return [], 0
    count = -(-(whole - lead) // room)
    edges = [lead + (whole - lead) * number // count for number in range(count + 1)]
    stretches = [Stretch(block, row, 0, edges[1])]
    stretches += [Stretch(block, row, start, end, lead) for start, end in pairwise(edges[1:])]
    return stretches, lead * (count - 1)


def _by_turns(messages: Sequence[Message], encoder: Encoder, limit: int) -> list[Block]:
    """Shorter conversations, each of as many exchanges as fit; the system's turn comes again in each where it fits.

    An exchange is a user's turn and all until the user's next one: no answer loses the question before it. None where the
    template refuses one of them.
    """
    system, exchanges = _exchanges(messages)
    if len(exchanges) < 2:
        return []
    known: dict[tuple[int, int, bool], Block | None] = {}

    def block(first: int, last: int, with_system: bool) -> Block | None:
        key = first, last, with_system
        if key not in known:
            turns = [message for exchange in exchanges[first:last] for message in exchange]
            known[key] = encoder.encode_turns([*system, *turns] if with_system else turns)
        return known[key]

    def fits(first: int, last: int, with_system: bool) -> bool:
        one = block(first, last, with_system)
        return one is not None and int(one.lengths[0]) <= limit

    first, found = 0, list[Block | None]()
    while first < len(exchanges):
        with_system = fits(first, first + 1, True) or not fits(first, first + 1, False)
        last = first + 1
        while last < len(exchanges) and fits(first, last + 1, with_system):
            last += 1
        found.append(block(first, last, with_system))
        first = last
    whole = [one for one in found if one is not None]
    return whole if len(whole) == len(found) else []


def _exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system's turns at the beginning, and the rest in exchanges that each have something to learn."""
    until = last_learned(messages) + 1
    begins = next((index for index in range(until) if messages[index]["role"] != "system"), until)
    exchanges: list[list[Message]] = []
    for message in messages[begins:until]:
        if not exchanges or (message["role"] == "user" and last_learned(exchanges[-1]) >= 0):
            exchanges.append([])
        exchanges[-1].append(message)
    return list(messages[:begins]), exchanges


def halves(stretch: Stretch, encoder: Encoder) -> tuple[str, str]:
    """A plain text as a prompt and what comes after it: the first half of its tokens, and the rest."""
    text = stretch.block.rendered[stretch.row].reference
    _, begins, whole = stretch.block.row_segments(stretch.row).tolist()
    ids = stretch.block.ids[stretch.block.bounds[stretch.row] :][begins : whole - 1]  # all but the token that ends the text
    first, last = max(stretch.start - begins, 0), min(stretch.end - begins, len(ids))
    start, middle, end = encoder.texts.characters(text, ids, [first, (first + last) // 2, last])
    while middle > start and text[middle - 1].isspace():  # a prompt that ends in a blank is never seen in training
        middle -= 1
    return encoder.renderer.start + text[start:middle], text[middle:end]
