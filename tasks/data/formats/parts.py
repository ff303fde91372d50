"""Parts of a file, so that several processes can read one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A stretch of a file.

    Args:
        start: where it begins: a byte, or a row group of a Parquet file.
        end: where it ends, itself not included; None at the end of the file.
        first_line: the number of its first line or row, from 1.
    """

    start: int = 0
    end: int | None = None
    first_line: int = 1


WHOLE = Part()
