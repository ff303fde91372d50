"""Conversations to token ids, batch by batch; what cannot be rendered is counted."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.data.rendering import Rendered, Renderer, TemplateError
from tasks.data.rows import Row, place_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REFUSED = "refused_by_template"


@dataclass
class Tokens:
    """One row as tokens."""

    row: Row
    ids: list[int]
    learned: list[int]
    prompt: str
    reference: str


@dataclass
class Written:
    """What was counted while a split was written."""

    lengths: list[int] = field(default_factory=list)
    supervised: int = 0
    truncated_rows: int = 0
    truncated_tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    largest_id: int = 0
    refusal: str = ""
    too_long: list[str] = field(default_factory=list)
    hasher: Any = field(default_factory=hashlib.sha256)


class Encoder:
    """Rows to sequences of at most `limit` tokens."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", task: str, limit: int) -> None:
        self.tokenizer, self.task, self.limit = tokenizer, task, limit
        self.renderer = Renderer(tokenizer, task)

    def encode(self, rows: Sequence[Row], written: Written) -> list[Tokens]:
        """The sequences of the rows that have something to learn, uncut; the others are counted."""
        rendered: list[tuple[Row, Rendered]] = []
        for row in rows:
            try:
                rendered.append((row, self.renderer.render(row["messages"])))
            except TemplateError as error:
                written.dropped[REFUSED] += 1
                written.refusal = written.refusal or f"{place_of(row)}: {error}"
        pieces = [
            (text, plain, segment.learned)
            for _, found in rendered
            for segment in found.segments
            for text, plain in self.renderer.pieces(segment.text)
        ]
        ids = iter(self.encode_pieces([(text, plain) for text, plain, _ in pieces]))
        sequences = []
        for row, found in rendered:
            one = Tokens(row, [], [], found.prompt, found.reference)
            for segment in found.segments:
                for _ in self.renderer.pieces(segment.text):
                    tokens = next(ids)
                    one.ids += tokens
                    one.learned += [int(segment.learned)] * len(tokens)
            sequences.append(self._halved(one) if self.task == "text" else one)
        return sequences

    def encode_pieces(self, pieces: Sequence[tuple[str, bool]]) -> list[list[int]]:
        """Token ids of each text; in plain ones the text of a control token is text."""
        known: dict[tuple[str, bool], list[int]] = {}
        for plain in (False, True):
            texts = list(dict.fromkeys(text for text, is_plain in pieces if is_plain == plain))
            if texts:
                found = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=plain)["input_ids"]
                known |= {(text, plain): ids for text, ids in zip(texts, found, strict=True)}
        return [known[piece] for piece in pieces]

    def _halved(self, one: Tokens) -> Tokens:
        """A plain text whose prompt is the first half of its tokens and whose reference is the rest."""
        text = one.reference
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        offsets = offsets[: self.limit]
        if offsets:
            middle = offsets[len(offsets) // 2][0]
            one.prompt = self.renderer.start + text[:middle]
            one.reference = text[middle : offsets[-1][1]]
        return one
