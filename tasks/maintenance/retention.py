"""The plan: each folder of a workspace and its store is looked at, and goes only for a reason."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.caching import lock_of
from tasks.maintenance import inventory
from tasks.maintenance.inventory import Activity, Entry, Place
from tasks.maintenance.spec import DAY, GIB, HOUR, Item, Kept, Kind, MaintenanceSpec, RetentionPlan
from tasks.storage import Store

ORDER: tuple[Kind, ...] = ("run", "checkpoint", "cache", "partial", "unfinished", "copy")


@dataclass(frozen=True)
class Survey:
    """What the judgements below look at."""

    place: Place
    spec: MaintenanceSpec
    now: float  # seconds since 1970
    named: dict[str, set[str]]
    activity: Activity
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        """The local workspace."""
        return self.place.workspace

    @property
    def store(self) -> Store:
        """Where cache entries lie."""
        return self.place.store

    def item(self, folder: Path, kind: Kind, last_used: float = 0.0) -> Item:
        """A folder of the workspace that nothing speaks against yet."""
        size, newest = inventory.measure(folder)
        key = folder.relative_to(self.workspace).as_posix()
        return Item(key=key, kind=kind, bytes=size, last_used=max(newest, last_used))

    def overdue(self, item: Item, limit: int, unit: str, *locks: Path) -> Item:
        """The item with its reason, where it was not used for more than `limit` days or hours and no lock is held.

        One that was never used went away while it was looked at.
        """
        age = (self.now - item.last_used) / (DAY if unit == "days" else HOUR)
        if not limit or age <= limit or not item.last_used or inventory.is_held(*locks):
            return item
        return item.model_copy(update={"reason": f"not used for {int(age)} {unit}, limit {limit}"})


def plan(workspace: Path, store: Store, spec: MaintenanceSpec, now: float, open_flow_runs: Iterable[str] = ()) -> RetentionPlan:
    """What is to go, and why; nothing is removed.

    Args:
        workspace: the local workspace.
        store: holds the cache entries; its scratch lies in the workspace.
        spec: the limits.
        now: seconds since 1970.
        open_flow_runs: ids of Prefect's flow runs that are not over; what their runs need stays.
    """
    place = Place(workspace, store, frozenset(open_flow_runs))
    named = inventory.named_entries(place)
    survey = Survey(place, spec, now, named, inventory.activity(place, named), inventory.entries(store))
    runs = _runs(survey)
    going = {Path(item.key).name for item in runs if item.reason}
    looked_at = [*runs, *_checkpoints(survey), *_cache(survey, going), *_partials(survey)]
    looked_at += [*_unfinished(survey), *_copies(survey)]
    return RetentionPlan(
        items=tuple(item for item in looked_at if item.reason), kept=_kept(looked_at), notes=tuple(survey.notes)
    )


def _runs(survey: Survey) -> list[Item]:
    here = {folder.name: inventory.measure(folder) for folder in inventory.runs(survey.workspace)}
    there = inventory.stored_runs(survey.place)
    found = []
    for name in sorted({*here, *there}):
        parts = [part[name] for part in (here, there) if name in part]
        size, newest = sum(size for size, _ in parts), max(newest for _, newest in parts)
        item = Item(key=f"runs/{name}", kind="run", bytes=size, last_used=newest)
        old = survey.overdue(item, survey.spec.runs_days, "days")
        found.append(old if old.reason and not survey.activity.is_under_way(name) else item)
    return found


def _checkpoints(survey: Survey) -> list[Item]:
    finished = {Path(entry.key).name for entry in survey.entries if entry.whole}
    found = []
    for folder in inventory.children(survey.workspace / "checkpoints"):
        if not inventory.KEY.fullmatch(folder.name):
            continue
        item, locks = survey.item(folder, "checkpoint"), inventory.training_locks(survey.store, folder.name)
        if survey.activity.is_in_use(f"cache/train/{folder.name}"):
            found.append(item)
        elif folder.name in finished:  # killed between the end of the training and the removal of its checkpoints
            found.append(survey.overdue(item, survey.spec.unfinished_hours, "hours", *locks))
        else:
            found.append(survey.overdue(item, survey.spec.checkpoints_days, "days", *locks))
    return found


def _cache(survey: Survey, going: set[str]) -> list[Item]:
    def is_free(item: Item) -> bool:
        busy = survey.named.get(item.key, set()) - going or survey.activity.is_in_use(item.key)
        return not busy and not inventory.is_held(lock_of(survey.store, item.key))

    judged = []
    for entry in survey.entries:
        if entry.whole:
            last_used = max(entry.written, survey.activity.last_use.get(entry.key, 0.0))
            item = Item(key=entry.key, kind="cache", bytes=entry.bytes, last_used=last_used)
            old = survey.overdue(item, survey.spec.cache_days, "days")
            judged.append(old if old.reason and is_free(item) else item)
    return _shrunk(survey, judged, is_free)


def _shrunk(survey: Survey, items: list[Item], is_free: Callable[[Item], bool]) -> list[Item]:
    """The items; while the cache would be over its limit, the least recently used have a reason too."""
    limit = survey.spec.cache_gib * GIB
    size = sum(item.bytes for item in items if not item.reason)
    if not limit or size <= limit:
        return items
    reason = f"the cache holds {size / GIB:.2f} GiB, limit {survey.spec.cache_gib:g}; least recently used first"
    judged = []
    for item in sorted(items, key=lambda item: (item.last_used, item.key)):
        goes = not item.reason and size > limit and item.bytes > 0 and is_free(item)
        size -= item.bytes if goes else 0
        judged.append(item.model_copy(update={"reason": reason}) if goes else item)
    if size > limit:
        survey.notes.append(
            f"The cache stays at {size / GIB:.2f} GiB, over its limit of {survey.spec.cache_gib:g}: runs that are kept or "
            f"under way need the rest. runs_days lets old runs go."
        )
    return judged


def _partials(survey: Survey) -> list[Item]:
    """Entries without a manifest: no step takes them for whole."""
    items = [
        Item(key=entry.key, kind="partial", bytes=entry.bytes, last_used=entry.written)
        for entry in survey.entries
        if not entry.whole
    ]
    return [survey.overdue(item, survey.spec.unfinished_hours, "hours", lock_of(survey.store, item.key)) for item in items]


def _unfinished(survey: Survey) -> list[Item]:
    found = []
    for folder in (*_scratch(survey, "unfinished"), *_swaps(survey)):
        # Copies and hard links keep the time of what they were made from; the folder's own change is later.
        item = survey.item(folder, "unfinished", inventory.own_change(folder))
        locks = inventory.bench_locks(survey.store, folder.name)
        found.append(survey.overdue(item, survey.spec.unfinished_hours, "hours", *locks))
    return found


def _swaps(survey: Survey) -> Iterator[Path]:
    """Folders that were about to be swapped in or out, and models that were not fetched to their end."""
    top = survey.workspace
    for folder in (*_real(top, "runs"), *_real(top, "checkpoints"), *_real(top, "cache", "models"), *_real(top, "models")):
        match = inventory.SWAP.fullmatch(folder.name)
        # Killed between the two renames: the old folder is then the only one of that model.
        last_one = match and folder.parent == top / "models" and not (folder.parent / match["name"]).exists()
        half_fetched = folder.parent == top / "cache" / "models" and folder.suffix == ".partial"
        if half_fetched or (match and not last_one):
            yield folder


def _copies(survey: Survey) -> list[Item]:
    """Local copies of a remote store's entries."""
    found = []
    for step in _scratch(survey, "copies", "cache"):
        for folder in inventory.children(step):
            key = inventory.KEY.search(folder.name)
            entry = f"cache/{step.name}/{key[0]}" if key else ""
            item = survey.item(folder, "copy", survey.activity.last_use.get(entry, 0.0))
            lock = lock_of(survey.store, entry)
            judged = survey.overdue(item, survey.spec.unfinished_hours, "hours", lock)
            busy = not key or survey.activity.is_in_use(entry)
            found.append(item if busy else judged)
    return found


def _scratch(survey: Survey, *parts: str) -> list[Path]:
    scratch = survey.store.scratch.relative_to(survey.workspace)
    return _real(survey.workspace, *scratch.parts, *parts)


def _real(root: Path, *parts: str) -> list[Path]:
    """The folders in `root`/`parts`; none where a link leads there."""
    folder = root.joinpath(*parts)
    return inventory.children(folder) if inventory.is_within(root, folder) else []


def _kept(items: Iterable[Item]) -> tuple[Kept, ...]:
    kept = [item for item in items if not item.reason]
    return tuple(
        Kept(kind=kind, count=len(same), bytes=sum(item.bytes for item in same))
        for kind in ORDER
        if (same := [item for item in kept if item.kind == kind])
    )
