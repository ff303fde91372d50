"""Input formats, one module each: KIND, SUFFIXES and `read(address, options)`, which yields (line from 1, row)."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tasks.data.files import COMPRESSIONS, Options, open_text, suffix_of
from tasks.data.formats import delimited, json_array, json_lines, parquet
from tasks.errors import DatasetError, unknown_name

FORMATS: tuple[ModuleType, ...] = (json_lines, json_array, delimited, parquet)
SUFFIXES: tuple[str, ...] = tuple(suffix for module in FORMATS for suffix in module.SUFFIXES)
_ROW_KEYS = ("messages", "conversations", "conversation")  # lists that belong to a row, not a list of rows


def format_of(address: str, options: Options) -> ModuleType:
    """The module that reads a file: by suffix, and for JSON by content.

    Raises:
        DatasetError: no format has the suffix, the file is empty, or it holds one object around the rows.
    """
    suffix = suffix_of(address)
    if suffix not in SUFFIXES:
        known = unknown_name("file suffix", suffix or "(none)", SUFFIXES)
        raise DatasetError(f"{address}: {known} Each but .parquet may end in {' or '.join(COMPRESSIONS)} too.")
    module = next(module for module in FORMATS if suffix in module.SUFFIXES)
    return _json_format(address, options) if module in (json_lines, json_array) else module


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and raw row of every row of a file."""
    rows: Iterator[tuple[int, dict[str, Any]]] = format_of(address, options).read(address, options)
    return rows


def _json_format(address: str, options: Options) -> ModuleType:
    with open_text(address, options) as file:
        first = next((line for line in file if line.strip()), "")
        if not first:
            raise DatasetError(f"{address} is empty. Expected one JSON object a line, or an array of objects.")
        if first.lstrip().startswith("["):
            return json_array
        more = next((line for line in file if line.strip()), "")
    try:
        row = json.loads(first)
        whole = not isinstance(row, dict) or bool(more) or suffix_of(address) != ".json" or not _wraps_rows(row)
    except (ValueError, RecursionError):
        whole = suffix_of(address) != ".json" or not first.lstrip().startswith("{") or _is_start_of_row(first, more)
    if not whole:
        raise DatasetError(_describe_object(address, options))
    return json_lines


def _is_start_of_row(first: str, more: str) -> bool:
    """True where lines look like broken JSON lines, not like an object over several lines."""
    return more.lstrip().startswith("{") and first.rstrip().endswith("}")


def _wraps_rows(content: dict[str, Any]) -> bool:
    lists = [key for key, value in content.items() if isinstance(value, list | dict) and key not in _ROW_KEYS]
    return bool(lists) and not any(isinstance(value, str) for value in content.values()) and len(lists) == len(content)


def _describe_object(address: str, options: Options) -> str:
    with open_text(address, options) as file:
        text = file.read()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        return (
            f"{address} line {line}: not JSON ({getattr(error, 'msg', error)}). "
            f"Expected one JSON object a line, or an array of objects."
        )
    parts = [f"{key!r} ({_size(value)})" for key, value in list(content.items())[:8]]
    return (
        f"{address} holds one object, expected rows: an array of objects or one object a line. "
        f"Found {', '.join(parts)}. "
        f"Write the list that you want to learn from to a file of its own, with named columns such as "
        f'{{"text": ..., "label": ...}}.'
    )


def _size(value: object) -> str:
    if isinstance(value, list):
        inner = f" of {type(value[0]).__name__}s" if value else ""
        return f"a list{inner}, {len(value)} long"
    return f"an object with {len(value)} keys" if isinstance(value, dict) else type(value).__name__
