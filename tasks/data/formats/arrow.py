"""Arrow tables, as `save_to_disk` of Hugging Face datasets writes them, read batch by batch."""

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from tasks.data.files import Options, broken, open_bytes
from tasks.data.formats.tables import BROKEN, check_columns, classes_of, rows_of
from tasks.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "arrow"
SUFFIXES = (".arrow",)
_MAGIC = b"ARROW1"  # begins a file of the format with random access; a stream has no such mark
_END = b"\xff\xff\xff\xff\0\0\0\0"


def read(address: str, options: Options) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number from 1 and row.

    Raises:
        DatasetError: the file is no Arrow file, or not a whole one.
    """
    import pyarrow as pa

    number = 0
    with open_bytes(address, options) as file:
        try:
            schema, batches = _open(_Bounded(file))
            check_columns(address, schema)
            for number, row in rows_of(batches, classes_of(schema)):
                yield number, row
        except (pa.ArrowException, *BROKEN, *broken()) as error:
            raise DatasetError(f"{address}: not a whole Arrow file after row {number}: {error}. Save it again.") from error


class _Bounded:
    """A file that never reads more than it holds: a damaged length would have the reader ask for terabytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.closed = file, file.seek(0, 2), False
        file.seek(0)
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        left = max(self.size - self.tell(), 0)
        return self.file.read(left if size < 0 else min(size, left))

    def close(self) -> None:
        """Leave the file to who opened it."""
        self.closed = True


def _open(file: Any) -> tuple["pa.Schema", Iterator["pa.RecordBatch"]]:
    import pyarrow as pa

    if file.read(len(_MAGIC)) == _MAGIC:
        whole = pa.ipc.open_file(file)
        return whole.schema, (whole.get_batch(number) for number in range(whole.num_record_batches))
    file.seek(0)
    stream = pa.ipc.open_stream(file)
    return stream.schema, _batches(stream, file)


def _batches(stream: "pa.RecordBatchStreamReader", file: Any) -> Iterator["pa.RecordBatch"]:
    """All batches; a stream that was cut between two of them lacks only its end mark."""
    yield from stream
    file.seek(-len(_END), 2)
    if file.read() != _END:
        raise EOFError("the stream has no end mark")
