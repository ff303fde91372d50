"""A JSON file that holds one object of several sets of rows: {"train": [...], "test": [...]}.

A set is a list of objects, or of pairs of two strings, which are a text and its label.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.data import folders
from tasks.data.files import Options, broken, open_text, parted, unreadable
from tasks.data.formats.json_stream import Window, elements, entries, object_at
from tasks.errors import DatasetError

KIND = "json_sets"
SUFFIXES = (".json",)
# Lists that belong to a row, not lists of rows.
_OF_A_ROW = frozenset(("messages", "conversations", "conversation", "dialog", "chat", "replies", "tools", "prompt"))
_USUAL = frozenset(("data", "rows", "examples", "instances", "items", "records", "samples"))
_NAMED = 8


@dataclass(frozen=True)
class Entry:
    """One entry of the object: its name, what it is, and whether it is a set of rows."""

    name: str
    what: str
    is_set: bool


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and row of every element of the sets that are read.

    Raises:
        DatasetError: no set is plainly meant, or naming the line where the file is broken.
    """
    chosen, _ = _pick(address, options)
    with open_text(address, options) as file:
        window = Window(address, file)
        try:
            for name, first in entries(window):
                if name not in chosen or first != "[":
                    window.value()
                    continue
                for line, value in elements(window):
                    yield line, _row(address, line, name, value)
        except broken() as error:
            raise unreadable(address, error, window.line) from error


def note(address: str, options: Options) -> str:
    """Which sets of the file are read and which are left out."""
    return _pick(address, options)[1]


def _pick(address: str, options: Options) -> tuple[list[str], str]:
    bare, wanted = parted(address, options)
    found = outline(address, options)
    sets = sets_of(found, sure=bool(wanted))
    if not sets:
        listed = ", ".join(f"{entry.name!r} ({entry.what})" for entry in found[:_NAMED]) or "nothing"
        maybe = sets_of(found, sure=True)
        way = f", or name it: {bare}#{maybe[0]}" if maybe else ""
        raise DatasetError(
            f"{bare} holds one object, expected rows: an array of objects, one object a line, or an object of such "
            f"arrays. Found {listed}. Write the list that you want to learn from to a file of its own, with named "
            f'columns such as {{"text": ..., "label": ...}}{way}.'
        )
    chosen, said = folders.pick(bare, sets, wanted)
    others = [f"{entry.name!r} ({entry.what})" for entry in found if entry.name not in sets]
    rest = f"no set and left out: {', '.join(others[:_NAMED])}" if others else ""
    return chosen, "; ".join(note for note in (said, rest) if note)


def sets_of(found: Sequence[Entry], *, sure: bool = False) -> list[str]:
    """The names of the sets; none where texts beside them make the object look like a row, unless `sure`."""
    names = [entry.name for entry in found if entry.is_set and entry.name not in _OF_A_ROW]
    row = any(entry.name in _OF_A_ROW or entry.what == "str" for entry in found)
    return names if sure or not row or any(folders.set_of(name) or name.lower() in _USUAL for name in names) else []


def is_for(row: Mapping[str, object]) -> bool:
    """True where the only line of a file is an object of sets, or of nothing but lists and objects that are no row's."""
    if sets_of([_entry_of(name, value) for name, value in row.items()]):
        return True
    return bool(row) and not _OF_A_ROW & row.keys() and all(isinstance(value, list | dict) for value in row.values())


def outline(address: str, options: Options) -> list[Entry]:
    """What the object holds, by the first element of each list.

    Raises:
        DatasetError: naming the line where the file is broken or the object is not alone.
    """
    found = []
    with open_text(address, options) as file:
        window = Window(address, file)
        try:
            for name, first in entries(window):
                found.append(_entry_of_list(name, window) if first == "[" else _entry_of(name, window.value()))
            if window.skip_space():
                raise DatasetError(
                    f"{address} line {window.line}: not JSON (text after the end of the object). "
                    f"Expected one JSON object a line, or an array of objects."
                )
        except broken() as error:
            raise unreadable(address, error, window.line) from error
    twice = sorted({entry.name for entry in found if [other.name for other in found].count(entry.name) > 1})
    if twice:
        raise DatasetError(f"{address} holds {', '.join(map(repr, twice))} more than once. Rename one.")
    return found


def _entry_of_list(name: str, window: Window) -> Entry:
    count, first = 0, None
    for _, value in elements(window):
        first = value if not count else first
        count += 1
    return _entry_of(name, [first] if count else [], count)


def _entry_of(name: str, value: object, count: int = -1) -> Entry:
    if isinstance(value, list):
        inner = f" of {type(value[0]).__name__}s" if value else ""
        what = f"a list{inner}, {len(value) if count < 0 else count} long"
        return Entry(name, what, bool(value) and (isinstance(value[0], dict) or _is_pair(value[0])))
    what = f"an object with {len(value)} keys" if isinstance(value, dict) else type(value).__name__
    return Entry(name, what, is_set=False)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _row(address: str, line: int, name: str, value: object) -> dict[str, object]:
    if isinstance(value, list):
        if not _is_pair(value):
            raise DatasetError(
                f"{address} line {line}: an element of {name!r} is {value!r:.80}, expected a text and its label: "
                f'["text", "label"].'
            )
        return {"text": value[0], "label": value[1]}
    return object_at(address, line, value)
