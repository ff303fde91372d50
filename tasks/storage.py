"""Where the values' files lie: one folder tree behind fsspec, data first and the manifest last.

A local root is used in place; a remote one (s3:// and whatever else fsspec speaks) is reached through a local scratch
folder, so that every stage reads and writes plain files.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.contracts import FileRecord, digest_of
from tasks.encryption.keys import KEY_FILE
from tasks.errors import ServiceError, WorkspaceError

MANIFEST = "manifest.json"
_STORE = "store://"  # stands for the root inside a manifest, so that a store can be moved
_CHUNK = 1 << 22


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def records_of(folder: Path) -> tuple[FileRecord, ...]:
    """Every file below `folder` but the manifest, sorted by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return tuple(
        FileRecord(path=path.relative_to(folder).as_posix(), sha256=sha256_file(path), bytes=path.stat().st_size)
        for path in files
    )


def folder_digest(folder: Path, pick: Callable[[Path], bool] = lambda _: True) -> str:
    """sha256 over the paths and bytes of the files of `folder` that `pick` takes."""
    return digest_of([(r.path, r.sha256) for r in records_of(folder) if pick(folder / r.path)])


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a copy of the folder `source`, by hard links where the disk allows, swapped in whole."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, fresh, copy_function=_link_or_copy)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


class Store:
    """A folder tree at `root` (a local folder or an fsspec address), worked on through `scratch` (a local folder).

    Args:
        root: absolute local folder, or an address such as s3://bucket/prefix.
        scratch: local folder for unfinished work and, with a remote root, for copies of what was read.
        options: fsspec storage options, credentials among them; never written anywhere.
    """

    def __init__(self, root: str, scratch: Path, options: Mapping[str, Any] | None = None) -> None:
        import fsspec

        self.scratch = scratch
        # A fresh copy each time: some filesystems write into the options they are given.
        self.filesystem, path = fsspec.core.url_to_fs(root, **dict(options or {}))
        self.is_local = "file" in _protocols(self.filesystem)
        self.root = str(Path(path)) if self.is_local else root.rstrip("/")
        self._base = path.rstrip("/")

    def uri(self, key: str) -> str:
        """The address of the entry `key`."""
        return f"{self.root}/{key}"

    def local(self, uri: str) -> Path:
        """A local path with the content of `uri`: the thing itself, or a copy of a remote one."""
        if self.is_local or not uri.startswith(self.root + "/"):
            return Path(uri)
        key = uri[len(self.root) + 1 :]
        target = self.scratch / "copies" / key
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.rmtree(partial, ignore_errors=True)
            self.filesystem.get(f"{self._base}/{key}", str(partial), recursive=True)
            partial.rename(target)
            self._fetch_key(key)
        return target

    def _fetch_key(self, key: str) -> None:
        """Where a part of encrypted data was fetched, fetch what opens it too."""
        entry = "/".join(key.split("/")[:3])  # cache/STEP/KEY
        target = self.scratch / "copies" / entry / KEY_FILE
        if not target.exists() and self.filesystem.exists(f"{self._base}/{entry}/{KEY_FILE}"):
            self.filesystem.get_file(f"{self._base}/{entry}/{KEY_FILE}", str(target))

    @contextmanager
    def workbench(self, key: str, resumable: bool = False) -> Iterator[Path]:
        """A local folder for the unfinished entry `key`; gone afterwards unless it was published.

        Args:
            key: of the entry.
            resumable: the folder holds what an earlier process left there, and stays where this one fails. Nobody else may
                work on the entry meanwhile.
        """
        folder = self.scratch / "unfinished" / f"{key.replace('/', '-')}-{'kept' if resumable else os.getpid()}"
        if not resumable:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(f"Cannot make the folder {folder}: {error.strerror}. Choose another --workspace.") from error
        try:
            yield folder
        except BaseException:
            if not resumable:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)

    def publish(self, key: str, folder: Path, manifest: Mapping[str, Any]) -> None:
        """Move the files of `folder` to the entry `key`, its manifest last."""
        text = json.dumps({**manifest, "files": [r.model_dump() for r in records_of(folder)]}, indent=1)
        text = text.replace(self.root + "/", _STORE)
        if self.is_local:
            target = Path(self.root) / key
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(folder, target)
            write_text(target / MANIFEST, text)
            return
        address = f"{self._base}/{key}"
        if self.filesystem.exists(address):
            self.filesystem.rm(address, recursive=True)
        for record in records_of(folder):
            self.filesystem.put_file(str(folder / record.path), f"{address}/{record.path}")
        shutil.rmtree(self.scratch / "copies" / key, ignore_errors=True)
        self.filesystem.pipe_file(f"{address}/{MANIFEST}", text.encode())

    def manifest(self, key: str) -> dict[str, Any] | None:
        """The manifest of the entry `key`, or None where it has none that can be read."""
        try:
            text = self.filesystem.cat_file(f"{self._base}/{key}/{MANIFEST}").decode()
            loaded = json.loads(text.replace(_STORE, self.root + "/"))
        except (FileNotFoundError, ValueError):
            return None
        return loaded if isinstance(loaded, dict) else None

    def write(self, key: str, text: str) -> None:
        """Write one small text, whole or not at all."""
        if self.is_local:
            write_text(Path(self.root) / key, text.replace(self.root + "/", _STORE))
        else:
            self.filesystem.pipe_file(f"{self._base}/{key}", text.replace(self.root + "/", _STORE).encode())

    def read(self, key: str) -> str | None:
        """A small text that was written, or None where there is none."""
        try:
            text: str = self.filesystem.cat_file(f"{self._base}/{key}").decode()
        except FileNotFoundError:
            return None
        return text.replace(_STORE, self.root + "/")

    def remove(self, key: str) -> None:
        """Remove one small text, where it is."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(f"{self._base}/{key}")

    def damage(self, key: str, manifest: Mapping[str, Any]) -> str:
        """What is wrong with the files of the entry `key`; "" where each exists with its hash."""
        for entry in manifest["files"]:
            record = FileRecord.model_validate(entry)
            address = f"{self._base}/{key}/{record.path}"
            if not self.filesystem.exists(address):
                return f"{record.path} is missing"
            if self._sha256(address) != record.sha256:
                return f"{record.path} is not what its manifest says"
        return ""

    def damage_at(self, uri: str) -> str:
        """What is wrong with the cache entry that an address lies in; "" where nothing is, or it lies in none."""
        if not uri.startswith(f"{self.root}/cache/"):
            return ""
        key = "/".join(uri[len(self.root) + 1 :].split("/")[:3])
        manifest = self.manifest(key)
        return self.damage(key, manifest) if manifest else f"{key} has no manifest"

    def probe(self) -> None:
        """Write, read and delete one small file.

        Raises:
            ServiceError: one of the three failed.
        """
        address = f"{self._base}/.probe-{os.getpid()}"
        try:
            if self.is_local:
                Path(self._base).mkdir(parents=True, exist_ok=True)
            self.filesystem.pipe_file(address, b"tuneflow")
            found = self.filesystem.cat_file(address)
            self.filesystem.rm_file(address)
        except Exception as error:
            raise ServiceError(f"The store {self.root} cannot be written, read and deleted from: {error}.") from error
        if found != b"tuneflow":
            raise ServiceError(f"The store {self.root} gave back {len(found)} other bytes than were written.")

    def _sha256(self, address: str) -> str:
        if self.is_local:
            return sha256_file(Path(address))
        hasher = hashlib.sha256()
        with self.filesystem.open(address, "rb") as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
        return hasher.hexdigest()


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
