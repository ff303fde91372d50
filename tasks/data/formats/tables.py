"""What the formats of Arrow tables share: from batches to rows."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tasks.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1024
Classes = dict[str, Sequence[str]]
BROKEN = (MemoryError, OverflowError, RecursionError, ValueError)  # Arrow's own errors are ValueErrors, OSErrors or plain ones


def check_columns(address: str, schema: "pa.Schema") -> None:
    """Stop where rows would lose a value or all of them.

    Raises:
        DatasetError: a column's name is there twice, or there is none.
    """
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DatasetError(f"{address} line 1: the table names {', '.join(map(repr, twice))} twice. Rename one.")
    if not schema.names:
        raise DatasetError(f"{address} line 1: the table has no columns. Write it again.")


def classes_of(schema: "pa.Schema") -> Classes:
    """Column -> names of its classes, where `datasets` wrote numbers of classes and their names beside them."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: feature.get("names") for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list)}


def rows_of(batches: Iterable["pa.RecordBatch"], classes: Classes, first: int = 1) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number and row of all batches; a number of a class becomes the class's name."""
    number = first
    for batch in batches:
        yield from enumerate(_rows(batch, classes), number)
        number += batch.num_rows


def _rows(batch: "pa.RecordBatch", classes: Classes) -> list[dict[str, Any]]:
    import pyarrow as pa

    try:
        batch.validate(full=True)  # a damaged offset would have Python read beyond the buffers
        rows: list[dict[str, Any]] = batch.to_pylist()
    except pa.ArrowInvalid:
        columns = [_values(column) for column in batch.columns]
        rows = [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
    for name in classes.keys() & set(batch.schema.names):
        for row in rows:
            row[name] = _class_name(row[name], classes[name])
    return rows


def _values(column: "pa.Array") -> list[Any]:
    """The values of a column; bytes that are no UTF-8 become U+FFFD."""
    import pyarrow as pa

    raw = pa.binary() if pa.types.is_string(column.type) else pa.large_binary()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column.validate(full=True)
        return list(column.to_pylist())
    held = column.view(raw)
    held.validate(full=True)
    return [None if value is None else value.decode("utf-8", errors="replace") for value in held.to_pylist()]


def _class_name(value: Any, names: Sequence[str]) -> Any:
    """The name; nothing for -1, which `datasets` writes where the class is not known."""
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None if value == -1 else value
