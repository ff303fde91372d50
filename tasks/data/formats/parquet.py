"""Parquet tables, read batch by batch."""

from collections.abc import Iterator
from typing import Any

from tasks.data.files import Options, open_bytes
from tasks.errors import DatasetError

KIND = "parquet"
SUFFIXES = (".parquet",)
_BATCH = 1024


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number from 1 and row.

    Raises:
        DatasetError: the file is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with open_bytes(address, options) as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except pa.ArrowException as error:
            raise DatasetError(f"{address}: not a whole Parquet file after row {number}: {error}. Write it again.") from error
