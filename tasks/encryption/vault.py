"""Reading and writing the files of a dataset, sealed where its folder has a key.

A folder with a key file, and all below it, is encrypted; any other is not. The master key is held by this process for as long
as a step works, and given to the processes that it starts through a pipe or a file in memory: it never lies on a disk, in a job
or among the variables of a process. What is sealed shows it by its first bytes, so that reading needs no telling.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO, cast

from tasks.encryption.container import Reader, Writer, is_sealed
from tasks.encryption.keys import KEY_FILE, DatasetKey, MasterKey, new_key, unwrapped, wrapped
from tasks.errors import DatasetError, StageError

_VARIABLE = "TUNEFLOW_KEY_FILE"  # address of a file in memory
_DEPTH = 8  # of files below their dataset's folder
_HELD: ContextVar[MasterKey | None] = ContextVar("held", default=None)
_ADDRESS: ContextVar[str] = ContextVar("address", default="")


@contextmanager
def unlocked(master: MasterKey | None) -> Iterator[None]:
    """Hold the master key; None changes nothing."""
    if master is None:
        yield
        return
    file = os.memfd_create("tuneflow")
    try:
        os.write(file, master.material)
        held, address = _HELD.set(master), _ADDRESS.set(f"/proc/{os.getpid()}/fd/{file}")
        try:
            yield
        finally:
            _HELD.reset(held)
            _ADDRESS.reset(address)
    finally:
        os.close(file)


def hold(master: MasterKey | None) -> None:
    """Hold the master key to the end of this process, which another one started for its work."""
    _HELD.set(master)


def held() -> MasterKey | None:
    """The master key: of the step that is under way, or of the process that started this one; None where nothing is encrypted.

    Raises:
        StageError: the process that started this one is gone.
    """
    here = _HELD.get()
    address = os.environ.get(_VARIABLE, "")
    if here is not None or not address:
        return here
    try:
        return MasterKey(Path(address).read_bytes())
    except (OSError, ValueError) as error:
        raise StageError(
            f"The key of the data cannot be read from {address}, where the process that started this one keeps it: {error}. "
            f"Start the run again; /proc must be there, and both processes must belong to one user."
        ) from error


def variables() -> dict[str, str]:
    """What a child process must find among its variables to hold the same key: where it is, not what it is."""
    return {_VARIABLE: address} if (address := _ADDRESS.get()) else {}


def begin(folder: Path) -> None:
    """Give a folder a key of its own, unless it has one, where a master key is held: all that is written below is sealed.

    Raises:
        DatasetError: the folder was begun under another master key.
    """
    master = held()
    if master is None:
        return
    path = folder / KEY_FILE
    if path.exists():
        unwrapped(path, master)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".{KEY_FILE}.*.new"):  # of a process that was killed
        left.unlink()
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.write_text(wrapped(new_key(), master), encoding="utf-8")
    fresh.replace(path)


def source(path: Path) -> Path | Reader:
    """What a library can read a file from: the file itself, or where it is sealed what opens it, chunk by chunk.

    Raises:
        DatasetError: it is sealed, and its key is not at hand or another one; or it is damaged.
    """
    if not is_sealed(path):
        return path
    key = _key_of(path)
    return Reader(path, key.material, key.name)


def read(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        DatasetError: see `source`.
    """
    found = source(path)
    return found.read_bytes() if isinstance(found, Path) else found.read()


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DatasetError: see `source`.
    """
    return read(path).decode()


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with writing(path) as file:
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, in order, which is there whole or not at all.

    Raises:
        DatasetError: its folder has a key that is not at hand.
        StageError: a master key is held, but the folder has no key: it would be written in clear.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as raw:
            key = _key_for(path)
            if key is None:
                yield raw
            else:
                sealed = Writer(raw, key.material, key.name)
                yield cast(BinaryIO, sealed)
                sealed.finish()
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def told(text: str) -> str:
    """Words of a row as a message or a page may show them: not at all where the data are encrypted."""
    return "(not shown: the data are encrypted)" if held() else text


def _key_file(path: Path) -> Path | None:
    """The nearest key file above a file."""
    folders = list(path.absolute().parents)[:_DEPTH]
    return next((found for folder in folders if (found := folder / KEY_FILE).is_file()), None)


def _key_for(path: Path) -> DatasetKey | None:
    """What a new file is sealed with."""
    file, master = _key_file(path), held()
    if file is None and master is None:
        return None
    if master is None:
        raise _locked(path)
    if file is None:
        raise StageError(
            f"{path} would be written in clear, though data.encryption is set: no folder above it has a {KEY_FILE}. This is a "
            f"defect; nothing was written there."
        )
    return unwrapped(file, master)


def _key_of(path: Path) -> DatasetKey:
    """What a sealed file was sealed with."""
    file, master = _key_file(path), held()
    if master is None:
        raise _locked(path)
    if file is None:
        raise DatasetError(
            f"{path} is encrypted, but no folder above it has the {KEY_FILE} with its key. Without it nobody can read the "
            f"file: put it back, or remove the dataset's folder and start the run again."
        )
    return unwrapped(file, master)


def _locked(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} belongs to encrypted data, and no key is at hand. Name the block that holds it in data.encryption; where that "
        f"block is gone, nobody can read the data again."
    )
