"""A JSON file that holds one array of objects, read piece by piece."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from tasks.data.files import Options, open_text
from tasks.errors import DatasetError

KIND = "json_array"
SUFFIXES = (".json",)
_CHUNK = 1 << 20
_SPACE = re.compile(r"[\s,]*")
_MARGIN = 16  # an error this near the end of what was read may be a value cut in two


class _Window:
    """The unread part of a file, with the number of its first line."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.text, self.at, self.line, self.ended = file, "", 0, 1, False

    def more(self) -> bool:
        """Read on, twice as far each time that one value needs it; False at the end."""
        rest = self.text[self.at :]
        chunk = self.file.read(max(_CHUNK, len(rest)))
        self.text, self.at, self.ended = rest + chunk, 0, not chunk
        return bool(chunk)

    def advance(self, to: int) -> None:
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


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every element.

    Raises:
        DatasetError: naming the line where the array is broken or holds something other than objects.
    """
    with open_text(address, options) as file:
        window = _Window(file)
        if window.skip_space() != "[":
            raise DatasetError(f"{address} line {window.line}: expected a JSON array, which begins with '['.")
        window.advance(window.at + 1)
        while (first := window.skip_space()) != "]":
            if not first:
                raise DatasetError(f"{address} line {window.line}: the array has no end. Is the file whole?")
            line, row = window.line, _next_value(address, window)
            if not isinstance(row, dict):
                raise DatasetError(
                    f"{address} line {line}: an element is a JSON {type(row).__name__}, expected an object such as "
                    f'{{"question": "...", "answer": "..."}}.'
                )
            yield line, row
        window.advance(window.at + 1)
        if window.skip_space():
            raise DatasetError(f"{address} line {window.line}: text after the end of the array; expected one array a file.")


def _next_value(address: str, window: _Window) -> object:
    decoder = json.JSONDecoder()
    while True:
        try:
            value, end = decoder.raw_decode(window.text, window.at)
        except (json.JSONDecodeError, RecursionError) as error:
            at = getattr(error, "pos", window.at)
            cut = "Unterminated" in str(error) or at >= len(window.text) - _MARGIN
            if cut and not window.ended:
                window.more()
                continue
            line = window.line + window.text.count("\n", window.at, at)
            message = getattr(error, "msg", "nested too deeply")
            raise DatasetError(f"{address} line {line}: not JSON ({message}). Mend or remove this element.") from error
        window.advance(end)
        return value
