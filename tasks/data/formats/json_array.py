"""A JSON file that holds one array of objects, read piece by piece."""

from collections.abc import Iterator
from typing import Any

from tasks.data.files import Options, broken, open_text, unreadable
from tasks.data.formats.json_stream import Window, elements, object_at
from tasks.errors import DatasetError

KIND = "json_array"
SUFFIXES = (".json",)


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every element.

    Raises:
        DatasetError: naming the line where the array is broken or holds something other than objects.
    """
    with open_text(address, options) as file:
        window = Window(address, file)
        try:
            for line, value in elements(window):
                yield line, object_at(address, line, value)
            if window.skip_space():
                raise DatasetError(f"{address} line {window.line}: text after the end of the array; expected one array a file.")
        except broken() as error:
            raise unreadable(address, error, window.line) from error
