"""JSON read value by value, so that a large file needs little memory; and the line of each value."""

import json
import re
from collections.abc import Iterator
from typing import IO

from tasks.errors import DatasetError

_CHUNK = 1 << 20
_SPACE = re.compile(r"[\s,]*")
_MARGIN = 16  # an error this near the end of what was read may be a value cut in two
_DECODER = json.JSONDecoder()


class Window:
    """The unread part of a file, with the number of its first line."""

    def __init__(self, address: str, file: IO[str]) -> None:
        self.address, self.file = address, file
        self.text, self.at, self.line, self.ended = "", 0, 1, False

    def more(self) -> bool:
        """Read on, twice as far each time that one value needs it; False at the end."""
        rest = self.text[self.at :]
        chunk = self.file.read(max(_CHUNK, len(rest)))
        self.text, self.at, self.ended = rest + chunk, 0, not chunk
        return bool(chunk)

    def advance(self, to: int) -> None:
        """Count what lies before `to` as read."""
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def skip_space(self) -> str:
        """Go to the next value or bracket and return its first character, "" at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.advance(found.end() if found else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, expected: str, what: str) -> None:
        """Go past one character.

        Raises:
            DatasetError: another one stands there.
        """
        found = self.skip_space()
        if found != expected:
            there = f"found {found!r}" if found else "the file ends"
            raise DatasetError(f"{self.address} line {self.line}: {there}, expected {what}. Is the file whole?")
        self.advance(self.at + 1)

    def value(self) -> object:
        """The next value, whatever it is.

        Raises:
            DatasetError: naming the line where it is no JSON.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                at = getattr(error, "pos", self.at)
                cut = "Unterminated" in str(error) or at >= len(self.text) - _MARGIN
                if cut and not self.ended:
                    self.more()
                    continue
                line = self.line + self.text.count("\n", self.at, at)
                message = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else error)
                raise DatasetError(f"{self.address} line {line}: not JSON ({message}). Mend or remove this element.") from error
            if end == len(self.text) and not self.ended:  # a number may go on
                self.more()
                continue
            self.advance(end)
            return value


def elements(window: Window) -> Iterator[tuple[int, object]]:
    """Line number and value of every element of the array that begins here.

    Raises:
        DatasetError: naming the line where the array is broken.
    """
    window.take("[", "a JSON array, which begins with '['")
    while (first := window.skip_space()) != "]":
        if not first:
            raise DatasetError(f"{window.address} line {window.line}: the array has no end. Is the file whole?")
        line = window.line
        yield line, window.value()
    window.advance(window.at + 1)


def entries(window: Window) -> Iterator[tuple[str, str]]:
    """Key and first character of every value of the object that begins here; the caller reads the value in between.

    Raises:
        DatasetError: naming the line where the object is broken.
    """
    window.take("{", "a JSON object, which begins with '{'")
    while (first := window.skip_space()) != "}":
        if not first:
            raise DatasetError(f"{window.address} line {window.line}: not JSON (the object has no end). Is the file whole?")
        line, key = window.line, window.value()
        if not isinstance(key, str):
            raise DatasetError(f"{window.address} line {line}: not JSON ({key!r:.40} stands where a name is expected).")
        window.take(":", f"a colon after {key!r:.40}")
        yield key, window.skip_space()
    window.advance(window.at + 1)


def object_at(address: str, line: int, value: object) -> dict[str, object]:
    """An element as a row.

    Raises:
        DatasetError: it is no object.
    """
    if not isinstance(value, dict):
        raise DatasetError(
            f"{address} line {line}: an element is a JSON {type(value).__name__}, expected an object such as "
            f'{{"question": "...", "answer": "..."}}.'
        )
    return value
