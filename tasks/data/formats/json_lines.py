"""JSON lines: one object a line."""

import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

import orjson

from tasks.data.files import BYTE_ORDER_MARK, Options, broken, is_compressed, open_bytes, open_lines, unreadable
from tasks.data.formats.parts import WHOLE, Part
from tasks.errors import DatasetError

KIND = "json_lines"
SUFFIXES = (".jsonl", ".ndjson")
_CHUNK = 1 << 22
_EXACT = frozenset((str, int, bool, type(None)))  # what orjson reads as the standard library does
_DIGITS = bytes(48 if chr(byte).isdigit() else 0 for byte in range(128)) + bytes(128)
_LONG_NUMBER = b"0" * 19  # integers of so many digits may not fit 64 bits: orjson would make floats of them


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is not blank.

    Raises:
        DatasetError: naming the line that is no object.
    """
    return read_part(address, options, WHOLE)


def parts(address: str, options: Options, size: int) -> list[Part]:
    """The file in parts of about `size` bytes that end where lines end; one part where it is compressed.

    Raises:
        DatasetError: the file cannot be read.
    """
    if is_compressed(address, options):
        return [WHOLE]
    with open_bytes(address, options) as file:
        return list(_cut(file, max(size, 1)))


def _cut(file: IO[bytes], size: int) -> Iterator[Part]:
    """Each part ends after the first line end at or beyond a multiple of `size` bytes."""
    start, first, line, at = 0, 1, 1, 0
    goal = size
    while chunk := file.read(_CHUNK):
        begin = 0
        while (end := chunk.find(b"\n", max(begin, goal - 1 - at)) + 1) > 0:
            line += chunk.count(b"\n", begin, end)
            yield Part(start, at + end, first)
            start, first, begin = at + end, line, end
            goal = start - start % size + size
        line += chunk.count(b"\n", begin)
        at += len(chunk)
    if start < at or not at:
        yield Part(start, at, first)


def read_part(address: str, options: Options, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line of one part; lines are counted from the beginning of the file.

    Raises:
        DatasetError: naming the line that is no object.
    """
    number = part.first_line - 1
    loads = orjson.loads
    with open_lines(address, options) as file:
        try:
            for number, line in enumerate(_lines(file, part), part.first_line):
                try:
                    row = loads(line)
                    if type(row) is dict and (_EXACT.issuperset(map(type, row.values())) or not _has_long_number(line)):
                        yield number, row
                        continue
                except orjson.JSONDecodeError:
                    pass
                found = _read_line(address, number, line)
                if found is not None:
                    yield number, found
        except broken() as error:
            raise unreadable(address, error, number) from error


def _lines(file: IO[bytes], part: Part) -> Iterable[bytes]:
    if part.start:
        file.seek(part.start)
    return file if part.end is None else _lines_until(file, part.end)


def _lines_until(file: IO[bytes], end: int) -> Iterator[bytes]:
    at = file.tell()
    while at < end and (line := file.readline()):
        at += len(line)
        yield line


def _has_long_number(line: bytes) -> bool:
    return _LONG_NUMBER in line.translate(_DIGITS)


def _read_line(address: str, number: int, line: bytes) -> dict[str, Any] | None:
    """What orjson refuses or would change, as the standard library reads it; None where the line is blank."""
    text = line.decode("utf-8", errors="replace")
    if not text.strip():
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        marked = " A byte order mark stands in the middle of the file." if line.startswith(BYTE_ORDER_MARK) else ""
        raise DatasetError(
            f"{address} line {number}: not JSON ({error}).{marked} "
            f"Expected one whole JSON object a line; mend or remove the line."
        ) from error
    if not isinstance(row, dict):
        raise DatasetError(
            f"{address} line {number}: a JSON {type(row).__name__}, expected an object such as "
            f'{{"question": "...", "answer": "..."}}.'
        )
    return row
