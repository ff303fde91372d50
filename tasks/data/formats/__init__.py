"""Input formats, one module each: KIND, SUFFIXES and `read(address, options)`, which yields (line from 1, row).

A format that can be read in parts has `parts(address, options, size)` and `read_part(address, options, part)` too; one
that leaves something out has `note(address, options)`, which says what.
"""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tasks.data.files import COMPRESSIONS, Options, open_text, parted, suffix_of
from tasks.data.formats import arrow, delimited, json_array, json_lines, json_sets, parquet
from tasks.data.formats.parts import WHOLE, Part
from tasks.errors import DatasetError, unknown_name

FORMATS: tuple[ModuleType, ...] = (json_lines, json_array, json_sets, delimited, parquet, arrow)
SUFFIXES: tuple[str, ...] = tuple(dict.fromkeys(suffix for module in FORMATS for suffix in module.SUFFIXES))
_TABLES = (parquet, arrow)
_LONGEST_LOOK = 1 << 20


def format_of(address: str, options: Options) -> ModuleType:
    """The module that reads a file: by suffix, and for JSON by content.

    Raises:
        DatasetError: no format has the suffix, the file is empty, or a set is named where there are none.
    """
    bare, name = parted(address, options)
    suffix = suffix_of(bare)
    module = next((module for module in FORMATS if suffix in module.SUFFIXES), None)
    if module is None or (module in _TABLES and not bare.lower().endswith(suffix)):
        known = unknown_name("file suffix", bare[bare.rfind(".") :] if suffix else "(none)", SUFFIXES)
        raise DatasetError(f"{bare}: {known} Each but .parquet and .arrow may end in {' or '.join(COMPRESSIONS)} too.")
    module = _json_format(bare, options) if module in (json_lines, json_array) else module
    if name and module is not json_sets:
        raise DatasetError(f"{address}: #{name} names a set, but {bare} holds only one. Write the address without #{name}.")
    return module


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and raw row of every row of a file."""
    rows: Iterator[tuple[int, dict[str, Any]]] = format_of(address, options).read(address, options)
    return rows


def parts(address: str, options: Options, size: int) -> list[Part]:
    """The file in parts of about `size` bytes; one part where its format cannot be cut."""
    module = format_of(address, options)
    found: list[Part] = module.parts(address, options, size) if hasattr(module, "parts") else [WHOLE]
    return found


def read_part(address: str, options: Options, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and raw row of every row of one part."""
    if part == WHOLE:
        return read(address, options)
    rows: Iterator[tuple[int, dict[str, Any]]] = format_of(address, options).read_part(address, options, part)
    return rows


def note_of(address: str, options: Options) -> str:
    """What of the file is read and what is left out; "" where all is read."""
    module = format_of(address, options)
    return str(module.note(address, options)) if hasattr(module, "note") else ""


def _json_format(address: str, options: Options) -> ModuleType:
    with open_text(address, options) as file:
        first = _look(file)
        if not first:
            raise DatasetError(f"{address} is empty. Expected one JSON object a line, or an array of objects.")
        if first.lstrip().startswith("["):
            return json_array
        if suffix_of(address) != ".json" or not first.lstrip().startswith("{"):
            return json_lines
        more = _look(file) if first.endswith("\n") else ""
    if not first.endswith("\n") and len(first) >= _LONGEST_LOOK:
        return json_sets if _is_object_of_sets(address, options) else json_lines
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return json_lines if _is_start_of_row(first, more) else json_sets
    return json_lines if more or not json_sets.is_for(row) else json_sets


def _look(file: Any) -> str:
    """The next line that is not blank, or the first million characters of it; "" at the end."""
    while line := str(file.readline(_LONGEST_LOOK)):
        if line.strip():
            return line
    return ""


def _is_start_of_row(first: str, more: str) -> bool:
    """True where lines look like broken JSON lines, not like an object over several lines."""
    return more.lstrip().startswith("{") and first.rstrip().endswith("}")


def _is_object_of_sets(address: str, options: Options) -> bool:
    """True where a very long first line is an object of sets; False where it is a row, or broken."""
    try:
        return bool(json_sets.sets_of(json_sets.outline(address, options)))
    except DatasetError:
        return False
