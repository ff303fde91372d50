"""Parquet tables, read batch by batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.data.files import Options, broken, open_bytes
from tasks.data.formats.parts import WHOLE, Part
from tasks.data.formats.tables import BATCH, BROKEN, check_columns, classes_of, rows_of
from tasks.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

KIND = "parquet"
SUFFIXES = (".parquet",)


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number from 1 and row.

    Raises:
        DatasetError: the file is no Parquet file.
    """
    return read_part(address, options, WHOLE)


def parts(address: str, options: Options, size: int) -> list[Part]:
    """The file in parts of whole row groups, of about `size` bytes or one row group each.

    Raises:
        DatasetError: the file is no Parquet file.
    """
    with _opened(address, options) as (table, _):
        groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
        sizes = [(group.total_byte_size, group.num_rows) for group in groups]
    found: list[Part] = []
    start, first, held, rows = 0, 1, 0, 0
    for number, (length, count) in enumerate(sizes, 1):
        held, rows = held + length, rows + count
        if held >= size or number == len(sizes):
            found.append(Part(start, number, first))
            start, first, held, rows = number, first + rows, 0, 0
    return found or [WHOLE]


def read_part(address: str, options: Options, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number and row of one part's row groups.

    Raises:
        DatasetError: the file is no Parquet file.
    """
    with _opened(address, options, part.first_line) as (table, place):
        end = table.metadata.num_row_groups if part.end is None else part.end
        batches = table.iter_batches(batch_size=BATCH, row_groups=list(range(part.start, end)))
        for number, row in rows_of(batches, classes_of(table.schema_arrow), part.first_line):
            place[0] = number
            yield number, row


@contextmanager
def _opened(address: str, options: Options, first: int = 1) -> Iterator[tuple["pq.ParquetFile", list[int]]]:
    """The file, and a place to note the row that was read last: errors name it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = [first - 1]
    with open_bytes(address, options) as file:
        try:
            table = pq.ParquetFile(file)
            check_columns(address, table.schema_arrow)
            yield table, place
        except (pa.ArrowException, *BROKEN, *broken()) as error:
            raise DatasetError(f"{address}: not a whole Parquet file after row {place[0]}: {error}. Write it again.") from error
