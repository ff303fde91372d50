"""The removal: under the lock that a run would take, and only of what nobody used since it was planned."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.caching import lock_of
from tasks.maintenance import inventory
from tasks.maintenance.inventory import Activity, Place
from tasks.maintenance.spec import Item
from tasks.storage import MANIFEST, Store

_USED = "it was used meanwhile"
_HELD = "a run works on it"
_FOREIGN = "it is no folder of its own: it is reached through a link"


@dataclass(frozen=True)
class _Ground:
    """Where is swept, and what results and values name once the runs are swept."""

    place: Place
    named: dict[str, set[str]] = field(default_factory=dict)

    def activity(self, entry: str) -> Activity:
        """Who uses the entry, by now."""
        return inventory.activity(self.place, {entry: self.named.get(entry, set())}, Path(entry).parent.name)


def sweep(workspace: Path, store: Store, items: Iterable[Item], open_flow_runs: Iterable[str] = ()) -> tuple[Item, ...]:
    """Remove the items; each comes back as removed, or with the reason why it stayed. Runs go first, as in a plan.

    Args:
        workspace: that of the plan, as is `store`.
        store: holds the cache entries.
        items: of a plan.
        open_flow_runs: ids of Prefect's flow runs that are not over.
    """
    place, planned = Place(workspace, store, frozenset(open_flow_runs)), list(items)
    runs = [_swept(_Ground(place), item) for item in planned if item.kind == "run"]
    ground = _Ground(place, inventory.named_entries(place))
    return (*runs, *(_swept(ground, item) for item in planned if item.kind != "run"))


def _swept(ground: _Ground, item: Item) -> Item:
    remove = {"run": _remove_run, "cache": _remove_entry, "partial": _remove_entry}.get(item.kind, _remove_folder)
    try:
        stayed = remove(ground, item)
    except OSError as error:
        stayed = f"it could not be removed: {error.strerror or error}"
    return item.model_copy(update={"reason": stayed} if stayed else {"removed": True})


def _remove_run(ground: _Ground, item: Item) -> str:
    place, store, name = ground.place, ground.place.store, Path(item.key).name
    lock = place.workspace / item.key / ".lock"
    locks = [lock] if lock.exists() else []
    if Activity(place).is_under_way(name):
        return _HELD
    with inventory.holding(locks) as mine:
        if not mine:
            return _HELD
        _, newest = inventory.stored_runs(place, name).get(name, (0, 0.0))
        if newest > item.last_used:
            return _USED
        stayed = _discard(place.workspace, place.workspace / item.key, item.last_used)
        if stayed or not newest:
            return stayed
        if store.is_local:
            return _discard(Path(store.root), Path(store.root) / item.key, item.last_used)
        store.filesystem.rm(store.uri(item.key), recursive=True)
        return ""


def _remove_folder(ground: _Ground, item: Item) -> str:
    place, entry = ground.place, _entry_of(item)
    with inventory.holding(_locks(place.store, item)) as mine:
        if not mine or ground.activity(entry).is_in_use(entry):
            return _HELD
        return _discard(place.workspace, place.workspace / item.key, item.last_used)


def _remove_entry(ground: _Ground, item: Item) -> str:
    store = ground.place.store
    with inventory.holding([_made(lock_of(store, item.key))]) as mine:
        activity = ground.activity(item.key)
        if not mine or activity.is_in_use(item.key):
            return _HELD
        written = inventory.written(store, item.key)
        last_used = max(written, activity.last_use.get(item.key, 0.0))
        if last_used > item.last_used or (item.kind == "partial" and written):
            return _USED
        if item.kind == "cache" and (names := ground.named.get(item.key)):
            return f"the run {min(names)} needs it"
        return _remove_local_entry(Path(store.root), item.key) if store.is_local else _remove_remote_entry(store, item.key)


def _remove_local_entry(root: Path, key: str) -> str:
    folder = root / key
    if not inventory.is_within(root, folder):
        return _FOREIGN if os.path.lexists(folder) else ""
    (folder / MANIFEST).unlink(missing_ok=True)  # first: what is half deleted must not look whole
    shutil.rmtree(folder)
    return ""


def _remove_remote_entry(store: Store, key: str) -> str:
    address = store.uri(key)
    if store.filesystem.exists(f"{address}/{MANIFEST}"):
        store.filesystem.rm_file(f"{address}/{MANIFEST}")
    if store.filesystem.exists(address):
        store.filesystem.rm(address, recursive=True)
    return ""


def _discard(workspace: Path, folder: Path, last_used: float) -> str:
    """Move the folder out of the way, so that nobody sees it half deleted, then delete it."""
    if not inventory.is_within(workspace, folder):
        return _FOREIGN if os.path.lexists(folder) else ""
    if inventory.measure(folder)[1] > last_used:
        return _USED
    old = folder
    if not inventory.SWAP.fullmatch(folder.name):
        old = folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.old"))
    shutil.rmtree(old)
    return ""


def _locks(store: Store, item: Item) -> list[Path]:
    name = Path(item.key).name
    if item.kind == "checkpoint":
        locks = inventory.training_locks(store, name)
    elif item.kind == "copy":
        locks = [lock_of(store, _entry_of(item))]
    else:
        locks = inventory.bench_locks(store, name)
    return [_made(lock) for lock in locks]


def _made(lock: Path) -> Path:
    lock.parent.mkdir(parents=True, exist_ok=True)
    return lock


def _entry_of(item: Item) -> str:
    """The cache entry of which the item is a copy, or for whose sake it is there."""
    path = Path(item.key)
    key = inventory.KEY.search(path.name)
    step = "train" if item.kind == "checkpoint" else path.parent.name
    return f"cache/{step}/{key[0]}" if key else ""
