"""From addresses to files and from files to bytes: local paths and what fsspec speaks; .gz and .zst."""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from tasks.data.spec import Source
from tasks.errors import DatasetError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Options = Mapping[str, Any]
COMPRESSIONS = (".gz", ".zst")
_CHUNK = 1 << 22
_BROKEN = (EOFError, OSError, zlib.error)
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16


def suffix_of(address: str) -> str:
    """The suffix that names the format, in lower case and without a compression's suffix."""
    path = PurePosixPath(address.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def connect(address: str, options: Options) -> tuple["AbstractFileSystem", str]:
    """The filesystem of an address and the path in it; local files take no options."""
    import fsspec

    remote = "://" in address
    # A fresh copy each time: some filesystems write into the options they are given.
    filesystem, path = fsspec.core.url_to_fs(address, **(dict(options) if remote else {}))
    return filesystem, path


def expand(sources: Sequence[Source], options: Options, suffixes: Sequence[str]) -> list[tuple[str, float]]:
    """Every file that the sources name, with its source's weight; folders and globs in sorted order.

    Raises:
        DatasetError: naming every address that has no file.
    """
    files: list[tuple[str, float]] = []
    problems = []
    for source in sources:
        try:
            files += [(address, source.weight) for address in _files_of(source.address, options, suffixes)]
        except DatasetError as error:
            problems.append(str(error))
        except Exception as error:
            problems.append(f"{source.address} cannot be reached: {type(error).__name__}: {error}")
    if problems:
        raise DatasetError("\n".join(problems))
    return files


def _files_of(address: str, options: Options, suffixes: Sequence[str]) -> list[str]:
    filesystem, path = connect(address, options)
    if any(mark in address for mark in "*?[") and not filesystem.isfile(path):
        found = sorted(name for name in filesystem.glob(path) if _is_data(name, suffixes))
        if not found:
            raise DatasetError(f"{address}: the glob matches no file with one of the suffixes {', '.join(suffixes)}.")
        return [_readdress(address, filesystem, name) for name in found]
    if filesystem.isdir(path):
        below = sorted(filesystem.find(path))
        found = [name for name in below if _is_data(name, suffixes)]
        if not found:
            names = ", ".join(PurePosixPath(name).name for name in below[:8]) or "nothing"
            raise DatasetError(f"{address}: no file with one of the suffixes {', '.join(suffixes)}; found {names}.")
        return [f"{address.rstrip('/')}/{name[len(path.rstrip('/')) :].lstrip('/')}" for name in found]
    if not filesystem.exists(path):
        raise DatasetError(_missing(address, filesystem, path))
    return [address]


def _is_data(name: str, suffixes: Sequence[str]) -> bool:
    return suffix_of(name) in suffixes and not PurePosixPath(name).name.startswith((".", "_"))


def _readdress(address: str, filesystem: "AbstractFileSystem", name: str) -> str:
    if "://" in address:
        return str(filesystem.unstrip_protocol(name))
    return name if Path(address).is_absolute() else os.path.relpath(name)


def _missing(address: str, filesystem: "AbstractFileSystem", path: str) -> str:
    parent, _, name = path.rpartition("/")
    try:
        names = [PurePosixPath(entry).name for entry in filesystem.ls(parent, detail=False)]
    except Exception:
        return f"{address}: no such file, and no folder {parent or '/'}."
    near = get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f" The nearest there is {near[0]!r}." if near else " The folder is empty."
    return f"{address}: no such file.{hint}"


def digest(address: str, options: Options) -> tuple[str, int]:
    """sha256 and size of a file as it lies there."""
    hasher, size = hashlib.sha256(), 0
    filesystem, path = connect(address, options)
    try:
        with filesystem.open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise DatasetError(f"{address} cannot be read: {error}.") from error
    return hasher.hexdigest(), size


@contextmanager
def open_bytes(address: str, options: Options) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed."""
    filesystem, path = connect(address, options)
    try:
        with filesystem.open(path, "rb") as file:
            yield _decompressed(address.lower(), file)
    except _BROKEN as error:
        raise DatasetError(f"{address} cannot be read: {error}. Is it whole, and what its suffix says?") from error


def _decompressed(name: str, file: IO[bytes]) -> IO[bytes]:
    if name.endswith(".gz"):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if name.endswith(".zst"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return file


@contextmanager
def open_text(address: str, options: Options) -> Iterator[IO[str]]:
    """The file as UTF-8; bytes that are none become U+FFFD, which validation sees and counts."""
    with open_bytes(address, options) as file:
        buffered = file if hasattr(file, "peek") else io.BufferedReader(file)  # type: ignore[type-var]
        start = buffered.peek(2)[:2]
        if start in _WIDE_MARKS:
            raise DatasetError(f"{address} is UTF-16, expected UTF-8. Convert it, e.g. with iconv -f UTF-16 -t UTF-8.")
        yield io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="replace", newline="\n")
