"""From addresses to files and from files to bytes: local paths and what fsspec speaks; .gz and .zst."""

import gzip
import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from tasks.data import folders
from tasks.data.spec import Source
from tasks.errors import DatasetError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Options = Mapping[str, Mapping[str, Any]]  # for fsspec, by protocol: {"s3": {"key": ...}}
COMPRESSIONS = folders.COMPRESSIONS
suffix_of = folders.suffix_of
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK = 1 << 22
_BUFFER = 1 << 20
_BROKEN: tuple[type[BaseException], ...] = (EOFError, OSError, zlib.error)
_CLIENTS = (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"), ("aiohttp", "ClientError"))
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16


@dataclass(frozen=True)
class Survey:
    """Every file that is to be read with its source's weight, and sentences on what of the sources is not."""

    files: list[tuple[str, float]]
    notes: list[str]


def parted(address: str, options: Options) -> tuple[str, str]:
    """An address without its `#name`, and the name; "" where it has none, or where it is part of the path itself.

    Raises:
        DatasetError: the address has a `#`, and its store does not answer.
    """
    bare, mark, name = address.rpartition("#")
    if not mark or not name or "/" in name:
        return address, ""
    try:
        filesystem, path = _filesystem(address, options)
        return (address, "") if filesystem.exists(path) else (bare, name)
    except broken() as error:
        raise DatasetError(f"{address} cannot be read: {error}.") from error


def connect(address: str, options: Options) -> tuple["AbstractFileSystem", str]:
    """The filesystem of an address and the path in it, without a `#name`; local files take no options."""
    return _filesystem(parted(address, options)[0], options)


def _filesystem(address: str, options: Options) -> tuple["AbstractFileSystem", str]:
    import fsspec

    protocol = address.partition("://")[0] if "://" in address else "file"
    # A fresh copy each time, all the way down: some filesystems write into the options they are given.
    filesystem, path = fsspec.core.url_to_fs(address, **deepcopy(dict(options.get(protocol, {}))))
    return filesystem, path


def expand(sources: Sequence[Source], options: Options, suffixes: Sequence[str]) -> list[tuple[str, float]]:
    """Every file that the sources name, with its source's weight; folders and globs in sorted order.

    Raises:
        DatasetError: naming every address that has no file.
    """
    return survey(sources, options, suffixes).files


def survey(sources: Sequence[Source], options: Options, suffixes: Sequence[str]) -> Survey:
    """Every file that the sources name, and what was chosen or left out on the way there.

    Raises:
        DatasetError: naming every address that has no file.
    """
    files: list[tuple[str, float]] = []
    notes, problems = [], []
    for source in sources:
        try:
            found, note = _files_of(source.address, options, suffixes)
        except DatasetError as error:
            problems.append(str(error))
        except Exception as error:
            problems.append(f"{source.address} cannot be reached: {type(error).__name__}: {error}")
        else:
            files += [(address, source.weight) for address in found]
            notes += [f"{source.address}: {note}"] if note else []
    if problems:
        raise DatasetError("\n".join(problems))
    return Survey(files, notes)


def _files_of(address: str, options: Options, suffixes: Sequence[str]) -> tuple[list[str], str]:
    bare, name = parted(address, options)
    filesystem, path = _filesystem(bare, options)
    filesystem.invalidate_cache()  # a listing that an earlier run left may be old
    if any(mark in bare for mark in "*?[") and not filesystem.isfile(path):
        found, others = folders.told_apart(sorted(filesystem.glob(path)), suffixes)
        if not found:
            raise DatasetError(f"{address}: the glob matches no file with one of the suffixes {', '.join(suffixes)}.")
        tail = f"#{name}" if name else ""
        return [_readdress(bare, filesystem, file) + tail for file in found], folders.left_out([_name(file) for file in others])
    if filesystem.isdir(path):
        root = path.rstrip("/")
        below = [file[len(root) :].lstrip("/") for file in sorted(filesystem.find(path))]
        folder = folders.Folder(bare, below, lambda file: _json_of(filesystem, bare, f"{root}/{file}"))
        chosen, note = folders.choose(folder, name, suffixes)
        return [f"{bare.rstrip('/')}/{file}" for file in chosen], note
    if not filesystem.exists(path):
        raise DatasetError(_missing(bare, filesystem, path))
    return [address], ""


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _json_of(filesystem: "AbstractFileSystem", address: str, path: str) -> dict[str, Any]:
    try:
        content = json.loads(filesystem.cat_file(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{address}: {_name(path)} is not JSON ({error}). Save the dataset again.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{address}: {_name(path)} is no JSON object. Save the dataset again.")
    return content


def _readdress(address: str, filesystem: "AbstractFileSystem", name: str) -> str:
    if "://" in address:
        return str(filesystem.unstrip_protocol(name))
    return name if Path(address).is_absolute() else os.path.relpath(name)


def _missing(address: str, filesystem: "AbstractFileSystem", path: str) -> str:
    parent, _, name = path.rpartition("/")
    try:
        names = [_name(entry) for entry in filesystem.ls(parent, detail=False)]
    except Exception:
        return f"{address}: no such file, and no folder {parent or '/'}."
    near = get_close_matches(name, names, n=1, cutoff=0.0)
    hint = f" The nearest there is {near[0]!r}." if near else " The folder is empty."
    return f"{address}: no such file.{hint}"


def digest(address: str, options: Options) -> tuple[str, int]:
    """sha256 and size of a file as it lies there."""
    hasher, size = hashlib.sha256(), 0
    try:
        filesystem, path = connect(address, options)
        with filesystem.open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                size += len(chunk)
    except broken() as error:
        raise DatasetError(f"{address} cannot be read: {error}.") from error
    return hasher.hexdigest(), size


def broken() -> tuple[type[BaseException], ...]:
    """What reading raises where a file is broken or its store does not answer."""
    clients = (getattr(sys.modules[module], name) for module, name in _CLIENTS if module in sys.modules)
    return (*_BROKEN, *clients)


def unreadable(address: str, error: BaseException, line: int = 0) -> DatasetError:
    """The error that says so, after which line where one is known."""
    after = f" after line {line}" if line else ""
    return DatasetError(f"{address} cannot be read{after}: {error}. Is it whole, and what its suffix says?")


@contextmanager
def open_bytes(address: str, options: Options) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed."""
    try:
        filesystem, path = connect(address, options)
        with filesystem.open(path, "rb") as file:
            yield _decompressed(path.lower(), file)
    except broken() as error:
        raise unreadable(address, error) from error


def _decompressed(path: str, file: IO[bytes]) -> IO[bytes]:
    if path.endswith(".gz"):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if path.endswith(".zst"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"), _BUFFER)
    return file


def is_compressed(address: str, options: Options) -> bool:
    """True where the bytes of the file are not those of its content."""
    return parted(address, options)[0].lower().endswith(COMPRESSIONS)


@contextmanager
def open_lines(address: str, options: Options) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed, to be read line by line; a UTF-8 mark at their beginning is skipped."""
    with open_bytes(address, options) as file:
        buffered = file if hasattr(file, "peek") else io.BufferedReader(file, _BUFFER)  # type: ignore[type-var]
        start = buffered.peek(3)[:3]
        if start.startswith(_WIDE_MARKS):
            raise DatasetError(f"{address} is UTF-16, expected UTF-8. Convert it, e.g. with iconv -f UTF-16 -t UTF-8.")
        if start == BYTE_ORDER_MARK:
            buffered.read(3)
        yield buffered


@contextmanager
def open_text(address: str, options: Options) -> Iterator[IO[str]]:
    """The file as UTF-8; bytes that are none become U+FFFD, which validation sees and counts."""
    with open_lines(address, options) as file:
        yield io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="\n")
