"""From a conversation to segments of text, each learned or not, through the model's own chat template."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tasks.data.rows import Message
from tasks.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Stands for a control token's text inside a user's content, so that content never becomes control.
_MARK = "\ue000{}\ue001"
_MARKED = re.compile("\ue000(\\d+)\ue001")
_OWN = (
    "\ue000",
    "\ue001",
    "\ue002",
    "\ue003",
)  # the characters of marks and stand-ins, marked themselves where content has them


class TemplateError(ModelError):
    """The chat template refuses a conversation or renders it in a way that cannot be taken apart."""


class Segment(NamedTuple):
    """A stretch of text and whether its tokens are learned; `head` and `tail` are what the template put around an answer."""

    text: str
    learned: bool
    head: str = ""
    tail: str = ""


class Rendered(NamedTuple):
    """A conversation as segments; generation of the last answer starts from `prompt`, and `reference` is that answer."""

    segments: tuple[Segment, ...]
    prompt: str
    reference: str


class Renderer:
    """Renders conversations for one tokenizer.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        task: text is learned whole; completion is prompt, line break and answer; the others use the template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", task: str) -> None:
        self.tokenizer, self.task = tokenizer, task
        self.controls = sorted(control_texts(tokenizer), key=len, reverse=True)
        self.special = [*self.controls, *_OWN]  # what content must not hold as it is
        self._control = re.compile("|".join(map(re.escape, self.controls)))
        self._special = re.compile("|".join(map(re.escape, self.special)))
        self._numbers = {text: str(index) for index, text in enumerate(self.special)}
        self.notes: set[str] = set()
        first = tokenizer("a")["input_ids"][:1]
        self.start = tokenizer.bos_token if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else ""

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The conversation up to the last answer that is learned.

        Raises:
            TemplateError: the template refuses it, or its answers cannot be found in what it renders.
        """
        until = last_learned(messages) + 1
        if not until:
            raise TemplateError("The conversation has no answer to learn.")
        marked = [{**message, "content": self.mark(message["content"])} for message in messages[:until]]
        if self.task == "text":
            text, end = marked[-1]["content"], self.tokenizer.eos_token
            segments = (Segment(self.start, False), Segment(text + end, True, "", end))
            return Rendered(segments, "", self.unmark(text))
        if self.task == "completion":
            before = self.start + "\n".join(message["content"] for message in marked[:-1]) + "\n"
            text, end = marked[-1]["content"], self.tokenizer.eos_token
            segments = (Segment(before, False), Segment(text + end, True, "", end))
            return Rendered(segments, self.unmark(before), self.unmark(text))
        return self._chat(marked)

    def mark(self, content: str) -> str:
        """The content with each control token's text replaced by a mark."""
        return self._special.sub(lambda found: _MARK.format(self._numbers[found[0]]), content)

    def unmark(self, text: str) -> str:
        """The text with its marks turned back."""
        return _MARKED.sub(lambda found: self.special[int(found[1])], text)

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """Stretches of a rendered text and whether each is plain content, whose control texts are no control tokens."""
        if "\ue000" not in text:
            return [(text, False)]
        parts = _MARKED.split(text)  # odd parts are numbers of controls
        whole = [(self.special[int(part)], True) if index % 2 else (part, False) for index, part in enumerate(parts)]
        return [piece for piece in whole if piece[0]]

    def _chat(self, messages: list[Message]) -> Rendered:
        full = self._apply(messages)
        answers = [index for index, message in enumerate(messages) if is_learned(message)]
        spans = self._spans_by_prefix(messages, answers, full) or self._spans_by_content(messages, answers, full)
        if spans is None:
            raise TemplateError(
                "The chat template renders earlier turns differently once later ones follow, and changes the answers, "
                "so that the tokens to learn cannot be found. Use a model or a tokenizer with a simpler template."
            )
        segments, at = [], 0
        for index, (start, end) in zip(answers, spans, strict=True):
            text = full[start:end]
            segments += [Segment(full[at:start], False), Segment(text, True, *self._around(text, messages[index]["content"]))]
            at = end
        text, _, head, tail = segments[-1]
        if not self._ends_with_control(text):
            end = self.tokenizer.eos_token
            segments[-1] = Segment(text + end, True, head, tail + end)
            self.notes.add("the template ends an answer without a token of its own, so the end-of-sequence token is added")
        prompt = self._apply(messages[:-1], add_generation_prompt=True)
        return Rendered(tuple(segments), self.unmark(prompt), self.unmark(messages[-1]["content"]))

    def _apply(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        said = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            # As a list of one conversation, since one that has no turn yet cannot stand alone.
            return str(
                self.tokenizer.apply_chat_template([said], tokenize=False, add_generation_prompt=add_generation_prompt)[0]
            )
        except Exception as error:
            raise TemplateError(f"The chat template refuses a conversation: {error}") from error

    def _spans_by_prefix(self, messages: list[Message], answers: list[int], full: str) -> list[tuple[int, int]] | None:
        """Where each answer begins and ends in `full`; None where a shorter conversation is no prefix of a longer one."""
        spans = []
        for index in answers:
            before = self._apply(messages[:index], add_generation_prompt=True)
            after = full if index == len(messages) - 1 else self._apply(messages[: index + 1])
            if not (full.startswith(after) and after.startswith(before)):
                return None
            spans.append((len(before), self._end_of_turn(after, len(before))))
        return spans

    def _spans_by_content(self, messages: list[Message], answers: list[int], full: str) -> list[tuple[int, int]] | None:
        """The same from where each answer's content lies, found by rendering unique stand-ins for the answers.

        The last answer starts where generation does, so that what a template puts before it (an empty thought) is learned too.
        """
        numbers = {index: f"\ue002{index}\ue003" for index in answers}
        stand_ins = [{**m, "content": numbers.get(index, m["content"])} for index, m in enumerate(messages)]
        rendered, at, spans = self._apply(stand_ins), 0, []
        for index in answers:
            head, found, rendered = rendered.partition(numbers[index])
            forms = _trimmed(messages[index]["content"])
            content = next((form for form in forms if found and full.startswith(head + form, at)), None)
            if content is None:
                return None
            start = at + len(head)
            spans.append((start, start + len(content)))
            at = start + len(content)
        if full[at:] != rendered:
            return None
        before = self._apply(messages[:-1], add_generation_prompt=True)
        last = len(before) if full.startswith(before) else len(full)
        starts = [start for start, _ in spans[:-1]] + [min(last, spans[-1][0])]
        limits = [*[start for start, _ in spans[1:]], len(full)]
        self.notes.add("the template is not prefix-stable, so answers were found by their place in the whole conversation")
        ends = [self._next_control(full, end, limit) for (_, end), limit in zip(spans, limits, strict=True)]
        return list(zip(starts, ends, strict=True))

    def _end_of_turn(self, text: str, start: int) -> int:
        """The end of the last control token after `start`; the end of the text where there is none."""
        ends = [found.end() for found in self._control.finditer(text, start)] if self.controls else []
        return ends[-1] if ends else len(text)

    def _next_control(self, text: str, start: int, limit: int) -> int:
        found = self._control.search(text, start, limit) if self.controls else None
        return found.end() if found else start

    def _around(self, text: str, content: str) -> tuple[str, str]:
        """What the template put before and after a content, trimmed or not, in the text of its turn."""
        until = len(text) - max((len(control) for control in self.controls if text.endswith(control)), default=0)
        for form in filter(None, _trimmed(content)):
            at = 0 if text.startswith(form) else text.rfind(form, 0, until)
            if at >= 0:
                return text[:at], text[at + len(form) :]
        return "", ""

    def _ends_with_control(self, text: str) -> bool:
        return any(text.endswith(control) for control in self.controls)


def control_texts(tokenizer: "PreTrainedTokenizerFast") -> set[str]:
    """The texts of all tokens that the tokenizer treats as control."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return {text for text in added | set(tokenizer.all_special_tokens) if text}


def is_learned(message: Message) -> bool:
    """Whether a message is an answer (or plain text) that is more than context."""
    return message["role"] in ("assistant", "text") and message.get("learn", True) is not False


def last_learned(messages: Sequence[Message]) -> int:
    """The index of the last answer that is learned; -1 where there is none."""
    return max((index for index, message in enumerate(messages) if is_learned(message)), default=-1)


def _trimmed(content: str) -> list[str]:
    """The content as templates give it back: as it is, or without blanks or line breaks at its ends; the longest first."""
    forms = [content, content.strip("\n"), content.lstrip("\n"), content.rstrip("\n")]
    forms += [content.strip(), content.lstrip(), content.rstrip()]
    return sorted(dict.fromkeys(forms), key=len, reverse=True)
