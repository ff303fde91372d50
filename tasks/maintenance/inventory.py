"""What lies in a workspace and its store, when it was used last, and what holds it. Symbolic links are never followed."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.caching import lock_of
from tasks.storage import MANIFEST, Store

KEY = re.compile(r"[0-9a-f]{24}")
SWAP = re.compile(r"\.(?P<name>.+)\.\d+\.(?:new|old)")
_RUN = re.compile(r"[a-z0-9][a-z0-9-]*")
_ENTRY = re.compile(r"cache/[\w.-]+/[0-9a-f]{24}(?![0-9a-f])")
_VALUE = re.compile(r"(?:^|/)runs/(?P<run>[a-z0-9][a-z0-9-]*)/values/.+\.json$")
_NOT_STEPS = ("hub", "models", ".scratch")  # other things below `cache/`: models from elsewhere, and what is under way


@dataclass(frozen=True)
class Entry:
    """A cache entry: whole where its manifest is there, `written` when that (or its newest file) was written."""

    key: str
    bytes: int
    written: float
    whole: bool


@dataclass(frozen=True)
class Place:
    """Where to look: a workspace, its store, and the ids of the Prefect flow runs that are not over."""

    workspace: Path
    store: Store
    open_flow_runs: frozenset[str] = frozenset()

    @property
    def is_apart(self) -> bool:
        """Whether the store lies elsewhere than in the workspace."""
        return not (self.store.is_local and Path(self.store.root) == self.workspace)


def children(folder: Path) -> list[Path]:
    """The real folders in `folder`, by name; none where `folder` is itself a link or not there."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    with os.scandir(folder) as found:
        return sorted(Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False))


def is_within(root: Path, folder: Path) -> bool:
    """Whether `folder` is a real folder below `root`, reached from there through no link."""
    parts = folder.relative_to(root).parts
    steps = [root.joinpath(*parts[: number + 1]) for number in range(len(parts))]
    return bool(parts) and ".." not in parts and all(step.is_dir() and not step.is_symlink() for step in steps)


def measure(folder: Path) -> tuple[int, float]:
    """(bytes that its removal frees, when a file in it was last written)."""
    size, newest = 0, 0.0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = Path(parent, name).lstat()
            except FileNotFoundError:  # a run is at work
                continue
            size += status.st_size if status.st_nlink == 1 else 0
            newest = max(newest, status.st_mtime)
    return size, newest or _changed(folder)


def own_change(folder: Path) -> float:
    """When the folder itself was changed, whatever times its files were given; 0 where it is gone."""
    try:
        return folder.lstat().st_ctime
    except FileNotFoundError:
        return 0.0


def runs(workspace: Path) -> list[Path]:
    """The runs' folders."""
    marks = (".lock", "steps", "logs", "values", "trials", "result.json")
    folders = children(workspace / "runs")
    return [folder for folder in folders if _RUN.fullmatch(folder.name) and any((folder / mark).exists() for mark in marks)]


def entries(store: Store) -> list[Entry]:
    """Every cache entry of the store, by key."""
    return _local_entries(Path(store.root)) if store.is_local else _remote_entries(store)


def written(store: Store, key: str) -> float:
    """When the entry's manifest was written; 0 where it has none."""
    address = f"{store.uri(key)}/{MANIFEST}"
    if store.is_local:
        return _changed(Path(address))
    store.filesystem.invalidate_cache()
    return _modified(store, address, {}) if store.filesystem.exists(address) else 0.0


def bench_locks(store: Store, bench: str) -> list[Path]:
    """The lock of the step that works in the folder `bench` of `unfinished/`, named by entry and process."""
    return [lock_of(store, bench.rpartition("-")[0])] if bench.startswith("cache-") else []


def training_locks(store: Store, key: str) -> list[Path]:
    """The locks of every step that may work on the checkpoints `key`."""
    usual = lock_of(store, f"cache/train/{key}")
    return sorted({usual, *usual.parent.glob(f"cache-*-{key}.lock")})


@contextmanager
def holding(locks: Sequence[Path]) -> Iterator[bool]:
    """Hold every lock, or yield False where one is held by somebody else."""
    with ExitStack() as stack:
        for path in locks:
            try:
                stack.enter_context(FileLock(path, blocking=False))
            except (Timeout, OSError):  # a lock that cannot be read may be held
                yield False
                return
        yield True


def is_held(*locks: Path) -> bool:
    """Whether somebody holds one of the locks."""
    with holding([path for path in locks if path.exists()]) as mine:
        return not mine


@dataclass
class Activity:
    """Who uses which entry: what runs' step records tell, what their results and values name, and the runs under way."""

    place: Place
    named_by: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    last_use: dict[str, float] = field(default_factory=dict)
    _under_way: dict[str, bool] = field(default_factory=dict)

    def is_under_way(self, run: str) -> bool:
        """Whether a process holds the run or Prefect has not ended it; it may be suspended, or work on another machine."""
        if run not in self._under_way:
            self._under_way[run] = _is_held_here(self.place.workspace, run) or bool(
                self.place.open_flow_runs and flow_run_of(self.place.store, run) in self.place.open_flow_runs
            )
        return self._under_way[run]

    def is_in_use(self, entry: str) -> bool:
        """Whether a run under way has computed, looked up or been given the entry."""
        return any(self.is_under_way(run) for run in sorted(self.named_by.get(entry, ())))


def activity(place: Place, named: Mapping[str, Collection[str]], step: str = "*") -> Activity:
    """The activity by what results and values name and by the records of a step, or of all; a hit leaves a record as well."""
    found = Activity(place)
    for entry, names in named.items():
        found.named_by[entry] |= set(names)
    for folder in runs(place.workspace):
        for path in sorted([*folder.glob(f"steps/{step}.json"), *folder.glob(f"trials/*/steps/{step}.json")]):
            entry, at = _record(path, _changed(path))
            found.last_use[entry] = max(at, found.last_use.get(entry, 0.0))
            found.named_by[entry].add(folder.name)
    return found


def named_entries(place: Place) -> dict[str, set[str]]:
    """Entry -> the runs whose result, or a value that they left for later stages, names it."""
    found: dict[str, set[str]] = defaultdict(set)
    folders = runs(place.workspace)
    if place.is_apart and place.store.is_local:
        folders += runs(Path(place.store.root))
    for folder in folders:
        for path in (folder / "result.json", *folder.glob("values/**/*.json")):
            for entry in _named(path, _changed(path)):
                found[entry].add(folder.name)
    if not place.store.is_local:
        for name in place.store.filesystem.find(place.store.uri("runs")):
            if match := _VALUE.search(name):
                text = place.store.filesystem.cat_file(name).decode(errors="replace")
                for entry in _ENTRY.findall(text):
                    found[entry].add(match["run"])
    return found


def stored_runs(place: Place, only: str = "") -> dict[str, tuple[int, float]]:
    """Run -> (bytes, when last written) of what runs, or one, left in a store that lies elsewhere."""
    if not place.is_apart:
        return {}
    if place.store.is_local:
        return {folder.name: measure(folder) for folder in runs(Path(place.store.root)) if only in ("", folder.name)}
    place.store.filesystem.invalidate_cache()
    found: dict[str, tuple[int, float]] = {}
    for name, about in place.store.filesystem.find(place.store.uri(f"runs/{only}".rstrip("/")), detail=True).items():
        if match := _VALUE.search(name):
            size, newest = found.get(match["run"], (0, 0.0))
            found[match["run"]] = size + int(about["size"]), max(newest, _modified(place.store, name, about))
    return found


def flow_run_of(store: Store, run: str) -> str:
    """The Prefect flow run that opened the run; "" where none is known."""
    try:
        return str(json.loads(store.read(f"runs/{run}/values/context.json") or "{}").get("flow_run_id", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _is_held_here(workspace: Path, run: str) -> bool:
    """Whether a process holds the run. A folder without a lock is worked on by a run of another name."""
    lock = workspace / "runs" / run / ".lock"
    return is_held(lock) if lock.exists() else any(is_held(folder / ".lock") for folder in runs(workspace))


@lru_cache(maxsize=10_000)
def _named(path: Path, _changed_at: float) -> tuple[str, ...]:
    """The entries that a file names; of one that is not there, none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(sorted(set(_ENTRY.findall(text))))


@lru_cache(maxsize=100_000)
def _record(path: Path, _changed_at: float) -> tuple[str, float]:
    """(entry, when it was used) of a record; of one that cannot be read, no entry."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"cache/{content['step']}/{content['key'][:24]}", float(content["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0.0


def _local_entries(root: Path) -> list[Entry]:
    found = []
    for step in children(root / "cache"):
        if step.name in _NOT_STEPS:
            continue
        for folder in children(step):
            if KEY.fullmatch(folder.name):
                size, newest = measure(folder)
                manifest = _changed(folder / MANIFEST)
                key = f"cache/{step.name}/{folder.name}"
                found.append(Entry(key, size, manifest or newest, bool(manifest)))
    return found


def _remote_entries(store: Store) -> list[Entry]:
    store.filesystem.invalidate_cache()
    files: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, about in store.filesystem.find(store.uri("cache"), detail=True).items():
        match = _ENTRY.search(name)
        if match and match[0].split("/")[1] not in _NOT_STEPS:
            files[match[0]][name] = about
    found = []
    for key, listed in sorted(files.items()):
        manifest = next((name for name in listed if name.endswith(f"{key}/{MANIFEST}")), "")
        moment = max(_modified(store, name, listed[name]) for name in ([manifest] if manifest else listed))
        found.append(Entry(key, sum(int(about["size"]) for about in listed.values()), moment, bool(manifest)))
    return found


def _modified(store: Store, address: str, about: Mapping[str, Any]) -> float:
    """When a file of a remote store was written; a listing of S3 says so, other stores are asked."""
    moment = about.get("LastModified") or store.filesystem.modified(address)
    return float((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _changed(path: Path) -> float:
    """When the file or folder itself was changed; 0 where there is none."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
