"""Tables as text: comma- or tab-separated, with a header line."""

import csv
from collections.abc import Iterator
from itertools import chain
from typing import Any

from tasks.data.files import Options, broken, open_text, parted, suffix_of, unreadable
from tasks.errors import DatasetError

KIND = "csv"
SUFFIXES = (".csv", ".tsv")
_LARGEST_FIELD = 1 << 28


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (where the row begins) and row; a field that is missing at the end of a row is None.

    Raises:
        DatasetError: naming the line that does not fit the header.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    line = 0
    with open_text(address, options) as file:
        try:
            first = file.readline()
            lines = csv.reader(chain([first], file), delimiter=_delimiter(address, options, first), strict=True)
            header = [name.strip() for name in next(lines, [])]
            _check_header(address, header)
            line = lines.line_num + 1
            for fields in lines:
                if fields:
                    yield line, _row(address, line, header, fields)
                line = lines.line_num + 1
        except csv.Error as error:
            raise DatasetError(
                f"{address} line {lines.line_num}: {error}. Put fields that hold quotes, commas or line breaks into "
                f'double quotes, and double the quotes inside: "He said ""yes""".'
            ) from error
        except broken() as error:
            raise unreadable(address, error, max(line - 1, 0)) from error


def _delimiter(address: str, options: Options, first: str) -> str:
    """Tab or comma by suffix, unless the first line holds only another one."""
    usual = "\t" if suffix_of(parted(address, options)[0]) == ".tsv" else ","
    if usual in first:
        return usual
    return next((other for other in ";\t|," if other in first), usual)


def _check_header(address: str, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DatasetError(f"{address} line 1: the header names {', '.join(map(repr, twice))} twice. Rename one.")


def _row(address: str, line: int, header: list[str], fields: list[str]) -> dict[str, Any]:
    missing = len(header) - len(fields)
    if missing < 0:
        raise DatasetError(
            f"{address} line {line}: {len(fields)} fields, but the header has {len(header)}. "
            f"Quote fields that hold the separator."
        )
    return dict(zip(header, [*fields, *[None] * missing] if missing else fields, strict=True))
