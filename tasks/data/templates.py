"""A chat template as plain strings around the contents, one form for each order of roles, wherever that gives the same text.

Jinja costs as much as tokenizing. A form is made by rendering stand-ins for the contents, so it holds whatever the template
does with roles and places: a system prompt put elsewhere, a thought in the last turn alone, another first turn. What it does
with the contents themselves is found by trying: blanks cut off at the ends become part of the form, and a content with a text
that the template looks for is left to jinja, as are texts of control tokens, empty contents and rare orders of roles.
"""

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from tasks.data.rendering import Rendered, Renderer, Segment, TemplateError
from tasks.data.rows import Message
from tasks.encryption import vault

Roles = tuple[str, ...]  # one a turn; "~" before the role of an answer that is context alone
_UNLEARNED = "~"
_STAND_IN = "\ue004{}\ue005"
_STOOD_IN = re.compile("\ue004(\\d+)\ue005")
OWN = ("\ue004", "\ue005")
_WORTH = 3  # rows of one order of roles for which its form is made
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_ENDED = re.compile(r"\.(?:starts|ends)with\(\s*('[^']+'|\"[^\"]+\")\s*\)")
_CONSTANTS = 200
_LONG_TURNS = 12  # conversations longer than this are tried with fewer contents
_TRIED = (
    "plain words", "  two before", "two after  ", "\n\nlines around\n\n", "\t\ttabs\t", "one\n\ntwo\n three", "\u00a0x\u00a0",
    "<a href=\"x\">&amp;'y'</a>", "{{ x }} {% if y %} {# z #}", "back\\slash \\n \\u0041", '{"role": "user", "n": [1, 2]}',
    "None", "true", "0", "```python\nx = 1\n```", "日本語 👩\u200d👧 é e\u0301", "\u2028\u200b\x0b", "a" * 3000, "words " * 500,
)  # fmt: skip
_ORDERS: tuple[Roles, ...] = (("user", "assistant"), ("system", "user", "assistant", "user", "assistant"))


class Slot(NamedTuple):
    """Where the content of turn `turn` goes, without the characters `left` and `right` at its ends; None: without blanks."""

    turn: int
    left: str | None = ""
    right: str | None = ""

    def fill(self, content: str) -> str:
        """The content as the template writes it."""
        if self.left != "":
            content = content.lstrip(self.left)
        return content if self.right == "" else content.rstrip(self.right)


Parts = tuple[str | Slot, ...]


@dataclass(frozen=True)
class Form:
    """What one order of roles becomes: parts of each segment, whether it is learned, and its own head and tail.

    `notes` is what rendering it by jinja had to say.
    """

    segments: tuple[tuple[Parts, bool, str, str], ...]
    prompt: Parts
    answer: int
    notes: frozenset[str] = frozenset()

    def fill(self, contents: Sequence[str]) -> Rendered:
        """The conversation of these contents, exactly as the template renders it."""
        segments = tuple(Segment(_filled(parts, contents), learned, head, tail) for parts, learned, head, tail in self.segments)
        # Mostly the very text of the first segment, which is not made twice.
        same = len(segments) > 1 and self.prompt == self.segments[0][0]
        prompt = segments[0].text if same else _filled(self.prompt, contents)
        return Rendered(segments, prompt, contents[self.answer])


class Forms:
    """Renders by forms where that is proven to be right, else by jinja.

    Args:
        renderer: the template by jinja.
        use: whether forms are used at all.
        triggers: texts that the template looks for in contents; what holds one is rendered by jinja.
    """

    def __init__(self, renderer: Renderer, use: bool = True, triggers: Sequence[str] = ()) -> None:
        self.renderer, self.use, self.triggers = renderer, use, tuple(triggers)
        self.odd = [*renderer.special, *OWN, *triggers]
        self._made: dict[Roles, Form | None] = {}

    def form(self, roles: Roles, rows: int = _WORTH) -> Form | None:
        """The form of an order of roles that `rows` rows have; None where jinja is to render them."""
        if not self.use or (rows < _WORTH and roles not in self._made):
            return None
        if roles not in self._made:
            self._made[roles] = make_form(self.renderer, roles)
        return self._made[roles]


def roles_of(messages: Sequence[Message]) -> Roles:
    """The order of roles of a conversation."""
    return tuple(_UNLEARNED * (message.get("learn", True) is False) + message["role"] for message in messages)


def turns_of(roles: Roles, contents: Sequence[str]) -> list[Message]:
    """The conversation of these roles and contents."""
    return [
        {"role": role.removeprefix(_UNLEARNED), "content": content, "learn": not role.startswith(_UNLEARNED)}
        for role, content in zip(roles, contents, strict=True)
    ]


def make_form(renderer: Renderer, roles: Roles) -> Form | None:
    """The form of an order of roles, tried on hostile contents; None where the template does more than put contents in."""
    notes, renderer.notes = renderer.notes, set()
    try:
        form = _taken_apart(renderer, roles)
        count = len(_TRIED) if len(roles) <= _LONG_TURNS else 4
        tried = ([_TRIED[(first + turn) % len(_TRIED)] for turn in range(len(roles))] for first in range(count))
        return form if form and not any(difference(renderer, form, roles, contents) for contents in tried) else None
    except TemplateError:
        return None
    finally:
        renderer.notes = notes


def difference(renderer: Renderer, form: Form, roles: Roles, contents: Sequence[str]) -> str:
    """Where a form and jinja first differ on these contents; "" where they are the same."""
    found = form.fill(contents)
    try:
        expected = renderer.render(turns_of(roles, contents))
    except TemplateError as error:
        return vault.told(f"jinja says: {error}")
    if [part[:2] for part in found.segments] == [part[:2] for part in expected.segments] and found[1:] == expected[1:]:
        return ""
    texts = ("".join(part.text for part in rendered.segments) for rendered in (found, expected))
    one, other = texts
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return vault.told(f"{one[max(0, at - 10) : at + 20]!r} instead of {other[max(0, at - 10) : at + 20]!r}")


def prove(renderer: Renderer, conversations: Sequence[Sequence[Message]]) -> tuple[Forms, str]:
    """Forms that were compared with jinja on real conversations and hostile contents, and the sentence that says so.

    Args:
        renderer: the template by jinja.
        conversations: real rows, some hundred of them.
    """
    notes = set(renderer.notes)
    triggers = [] if renderer.task in ("text", "completion") else find_triggers(renderer, conversations)
    forms, compared, unlike = Forms(renderer, True, triggers), 0, 0
    orders = [roles_of(messages) for messages in conversations]
    rows = Counter(orders)
    for roles, messages in zip(orders, conversations, strict=True):
        contents = [message["content"] for message in messages]
        form = forms.form(roles, rows[roles]) if is_usual(contents, forms.odd) else None
        found = difference(renderer, form, roles, contents) if form else ""
        if found:
            renderer.notes = notes
            return Forms(renderer, False), f"the template is rendered by jinja, row by row: as strings it gives {found}"
        compared, unlike = compared + (form is not None), unlike + (form is None)
    renderer.notes = notes
    if rows and not any(forms.form(roles) for roles in list(rows)[:3]):
        return Forms(
            renderer, False
        ), "the template is rendered by jinja, row by row: it does more with contents than put them in"
    shown = f" (jinja renders contents with {', '.join(map(repr, triggers[:6]))})" if triggers else ""
    others = f", jinja renders {unlike} odd ones" if unlike else ""
    return forms, f"the template is filled in as strings: the same as jinja on {compared} real rows{others}{shown}"


def is_usual(contents: Sequence[str], odd: Sequence[str]) -> bool:
    """Whether none of the contents is empty or holds one of the odd texts."""
    return all(content and not content.isspace() and not any(text in content for text in odd) for content in contents)


def find_triggers(renderer: Renderer, conversations: Sequence[Sequence[Message]]) -> list[str]:
    """The texts of the template that change what it does with a content which holds them."""
    template = renderer.tokenizer.get_chat_template()
    texts = sorted(set(map(_unquoted, _QUOTED.findall(template))), key=lambda text: (len(text), text))
    constants = [text for text in texts if text.strip() and not any(one in text for one in renderer.special)][:_CONSTANTS]
    ends = list(dict.fromkeys(map(_unquoted, _ENDED.findall(template))))
    seen = {roles_of(messages) for messages in conversations}
    orders = [*_ORDERS, *sorted((roles for roles in seen if len(roles) <= 6), key=lambda roles: (len(roles), roles))[:4]]
    notes, found = set(renderer.notes), set[str]()
    for roles in dict.fromkeys(orders):
        form = make_form(renderer, roles)
        if form is None:
            continue
        for text in constants:
            forms = (text, f"x{text}", f"{text}y", f"x{text}y", f"x{text}y{text}z")
            if not any(one in text for one in found) and _changes(renderer, form, roles, forms):
                found.add(text)
        for first, last in product(ends, ends):
            if not {first, last} & found and _changes(renderer, form, roles, (f"{first}x{last}", f"{first}x{last}y")):
                found.add(first)
    renderer.notes = notes
    return sorted(found)


def _changes(renderer: Renderer, form: Form, roles: Roles, contents: Sequence[str]) -> bool:
    return any(difference(renderer, form, roles, [content] * len(roles)) for content in contents)


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return text[1:-1]


def _taken_apart(renderer: Renderer, roles: Roles) -> Form | None:
    """The form as stand-ins show it; None where it depends on blanks in a way that no slot can say."""
    numbers = [_STAND_IN.format(index) for index in range(len(roles))]
    plain = renderer.render(turns_of(roles, numbers))
    notes = frozenset(renderer.notes)
    padded = {
        (side, pad): renderer.render(turns_of(roles, [pad + text if side == "left" else text + pad for text in numbers]))
        for side, pad in product(("left", "right"), ("\t", "\n"))
    }
    segments = []
    for index, segment in enumerate(plain.segments):
        others = {key: one.segments[index].text if index < len(one.segments) else "" for key, one in padded.items()}
        parts = _parts(segment.text, others)
        if parts is None:
            return None
        segments.append((parts, segment.learned, segment.head, segment.tail))
    prompt = _parts(plain.prompt, {key: one.prompt for key, one in padded.items()})
    if prompt is None:
        return None
    return Form(tuple(segments), prompt, int(_STOOD_IN.findall(plain.reference)[0]), notes)


def _parts(text: str, padded: dict[tuple[str, str], str]) -> Parts | None:
    """The strings of a text and the slots between them; what becomes of blanks is seen in the text with padded contents."""
    strings, slots = _STOOD_IN.split(text)[::2], [int(number) for number in _STOOD_IN.findall(text)]
    cut: dict[str, list[str | None]] = {"left": [""] * len(slots), "right": [""] * len(slots)}
    kept: dict[tuple[str, str], list[bool]] = {}
    for (side, pad), other in padded.items():
        if [int(number) for number in _STOOD_IN.findall(other)] != slots:
            return None
        between = _STOOD_IN.split(other)[::2]
        kept[side, pad] = []
        for index in range(len(slots)):
            place = index if side == "left" else index + 1
            with_pad = strings[place] + pad if side == "left" else pad + strings[place]
            if between[place] not in (strings[place], with_pad):
                return None
            kept[side, pad].append(between[place] == with_pad)
    for side, index in product(cut, range(len(slots))):
        tab, line = kept[side, "\t"][index], kept[side, "\n"][index]
        if line and not tab:
            return None
        cut[side][index] = "" if line else "\n" if tab else None
    parts: list[str | Slot] = [strings[0]]
    for index, number in enumerate(slots):
        parts += [Slot(number, cut["left"][index], cut["right"][index]), strings[index + 1]]
    return tuple(part for part in parts if part != "")


def _filled(parts: Parts, contents: Sequence[str]) -> str:
    return "".join([part if isinstance(part, str) else part.fill(contents[part.turn]) for part in parts])
