"""JSON lines: one object a line."""

import json
from collections.abc import Iterator
from typing import Any

from tasks.data.files import Options, open_text
from tasks.errors import DatasetError

KIND = "json_lines"
SUFFIXES = (".jsonl", ".ndjson")


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    Raises:
        DatasetError: naming the line that is no object.
    """
    with open_text(address, options) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DatasetError(
                    f"{address} line {number}: not JSON ({error}). "
                    f"Expected one whole JSON object a line; mend or remove the line."
                ) from error
            if not isinstance(row, dict):
                raise DatasetError(
                    f"{address} line {number}: a JSON {type(row).__name__}, expected an object such as "
                    f'{{"question": "...", "answer": "..."}}.'
                )
            yield number, row
