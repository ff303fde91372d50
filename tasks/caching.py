"""A step's cache: its key is made of content, and a hit counts only if every file still has its hash."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from tasks.contracts import StepRecord, Value, digest_of
from tasks.storage import Store, sha256_file, write_text

V = TypeVar("V", bound=Value)


@dataclass(frozen=True)
class Outcome(Generic[V]):
    """A step's value and why it was computed or not."""

    value: V
    record: StepRecord


@lru_cache(maxsize=1)
def lock_digest() -> str:
    """sha256 of the lock file: other versions of the libraries are other results."""
    lock = Path(__file__).parents[1] / "requirements.lock"
    return sha256_file(lock) if lock.is_file() else "no lock file"


def content(argument: object) -> Any:
    """What a cache key sees of one argument."""
    if isinstance(argument, Value):
        return argument.identity()
    if isinstance(argument, BaseModel):
        return argument.model_dump(mode="json")
    if isinstance(argument, tuple | list):
        return [content(item) for item in argument]
    return argument


def flatten(tree: object, prefix: str = "") -> dict[str, Any]:
    """A nested JSON value as dotted paths to leaves."""
    if isinstance(tree, Mapping):
        pairs = [(str(key), item) for key, item in tree.items()]
    elif isinstance(tree, list | tuple):
        pairs = [(str(index), item) for index, item in enumerate(tree)]
    else:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, item in pairs:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else key)
    return flat


def run_cached(
    store: Store,
    step: str,
    version: int,
    arguments: Mapping[str, object],
    value_type: type[V],
    compute: Callable[[Path, str, str], V],
    records: Path,
    waiting: Callable[[str], None] = lambda _: None,
    resumable: bool = False,
) -> Outcome[V]:
    """The step's value: from the cache where its manifest still holds, else computed and published.

    Args:
        store: where entries lie.
        step: the step's name.
        version: the stage's hand-bumped version.
        arguments: what the step was called with; their content makes the key.
        value_type: the contract that the value must satisfy.
        compute: called with (folder to write to, the entry's final address, key).
        records: folder that keeps one record a step, to say next time what changed.
        waiting: told why, where another process computes the same entry.
        resumable: what `compute` wrote before it was killed is there again.
    """
    started = time.monotonic()
    inputs = flatten({name: content(item) for name, item in arguments.items() if content(item) is not None})
    inputs |= {"stage_version": version, "lock": lock_digest()}
    key = digest_of([step, inputs])
    entry = f"cache/{step}/{key[:24]}"
    record_path = records / f"{step}.json"
    with _only_one(store, entry, waiting):
        value, damage = _lookup(store, entry, value_type)
        if value is not None:
            reason = "nothing it depends on changed; every file still has its hash"
        else:
            reason = damage or _what_changed(_previous(record_path), inputs)
            begun = StepRecord(step=step, key=key, cached=False, reason=reason, seconds=0, inputs=inputs)
            write_text(record_path, begun.model_dump_json(indent=1))  # `at` 0: it did not finish
            with store.workbench(entry, resumable) as folder:
                value = compute(folder, store.uri(entry), key)
                store.publish(entry, folder, {"step": step, "key": key, "value": value.model_dump(mode="json")})
        # Still under the lock: whoever removes old entries sees that this one was used.
        seconds = time.monotonic() - started
        hit = damage is None
        record = StepRecord(step=step, key=key, cached=hit, reason=reason, seconds=seconds, at=time.time(), inputs=inputs)
        write_text(record_path, record.model_dump_json(indent=1))
    return Outcome(value, record)


def _lookup(store: Store, entry: str, value_type: type[V]) -> tuple[V | None, str | None]:
    """(value, None) for a hit, (None, why) for an entry that no longer holds, (None, "") where there is none."""
    manifest = store.manifest(entry)
    if manifest is None:
        return None, ""
    if damage := store.damage(entry, manifest):
        return None, f"its cached result no longer holds: {damage}"
    try:
        return value_type.model_validate(manifest["value"]), None
    except ValidationError as error:
        return None, f"its cached result has another form: {error.errors()[0]['msg']}"


def lock_of(store: Store, entry: str) -> Path:
    """The lock that a step holds while it computes or looks up the entry."""
    return store.scratch / "locks" / f"{entry.replace('/', '-')}.lock"


@contextmanager
def _only_one(store: Store, entry: str, waiting: Callable[[str], None]) -> Iterator[None]:
    path = lock_of(store, entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting(f"another run computes {entry}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _previous(path: Path) -> StepRecord:
    try:
        return StepRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return StepRecord(step=path.stem, key="", cached=False, reason="", seconds=0)


def _what_changed(previous: StepRecord, inputs: Mapping[str, Any]) -> str:
    if not previous.key:
        return "first time under this name"
    changed = [
        f"{path} {_short(previous.inputs.get(path))} -> {_short(inputs.get(path))}"
        for path in sorted({*previous.inputs, *inputs})
        if previous.inputs.get(path) != inputs.get(path)
    ]
    if not changed:
        return "its cached result is gone" if previous.at else "it did not finish last time"
    more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
    return "changed: " + "; ".join(changed[:4]) + more


def _short(item: object) -> str:
    text = json.dumps(item, default=str)
    return text if len(text) <= 24 else text[:10] + "…"
