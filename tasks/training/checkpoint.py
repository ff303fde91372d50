"""Checkpoints: whole or not there, proven when written, and never read where a hash differs.

`checkpoints/<key>/step-<n>/` holds DeepSpeed's files, what the method keeps, and, written last, `complete.json` with the step,
the losses so far, how many ranks wrote it and the sha256 of each file. Batches, rates and random numbers of a step follow from
(seed, step): the step's number is the position in the data and the state of every generator.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.contracts import FileRecord
from tasks.errors import WorkspaceError
from tasks.storage import records_of, sha256_file, write_text
from tasks.workspace import in_gib

_COMPLETE = "complete.json"
_BYTES_PER_WEIGHT = 16  # of one that learns: itself, its fp32 original and two moments
_LEAST_BYTES = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole.

    Attributes:
        folder: where it lies.
        step: optimizer steps made.
        state: what the loop keeps.
        ranks: how many wrote it.
        pace: seconds of a checkpoint and of a step, as measured.
    """

    folder: Path
    step: int
    state: dict[str, Any]
    ranks: int = 1
    pace: tuple[float, float] | None = None


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return root / f"step-{step:08d}"


def prove(folder: Path, part: int = 0, parts: int = 1) -> tuple[FileRecord, ...]:
    """Bring every `parts`-th file to the disk, read it from there again, and tell its hash.

    Raises:
        OSError: a file is not what was written: the checksums that torch computed in memory differ from what is read.
    """
    records = []
    for path in _files(folder)[part::parts]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # so that the disk is read, not what was kept of it
        finally:
            os.close(handle)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise OSError(f"{path}: {damaged} is not what was written")
        name = path.relative_to(folder).as_posix()
        records.append(FileRecord(path=name, sha256=sha256_file(path), bytes=path.stat().st_size))
    return tuple(records)


def seal(
    folder: Path,
    step: int,
    state: dict[str, Any],
    ranks: int = 1,
    pace: tuple[float, float] | None = None,
    files: Iterable[FileRecord] | None = None,
) -> None:
    """Declare the checkpoint whole; `files` are all of its files, as they were proven."""
    records = prove(folder) if files is None else files
    content = {
        "step": step, "state": state, "ranks": ranks, "pace": pace, "files": [record.model_dump() for record in records],
    }  # fmt: skip
    write_text(folder / _COMPLETE, json.dumps(content))


def newest(root: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest whole checkpoint, and why newer ones were passed over."""
    refused: list[str] = []
    for folder in sorted(root.glob("step-*"), reverse=True):
        content, damage = _read(folder)
        if content is not None:
            return _of(folder, content), tuple(refused)
        refused.append(f"{folder.name}: {damage}")
    return None, tuple(refused)


def newest_step(root: Path) -> int:
    """The step of the newest checkpoint that was finished, without a look at its hashes; 0: there is none."""
    return max((int(path.parent.name.removeprefix("step-")) for path in root.glob(f"step-*/{_COMPLETE}")), default=0)


def trusted(root: Path, step: int) -> Checkpoint:
    """The checkpoint of `step`, whose hashes another rank has compared."""
    folder = folder_of(root, step)
    return _of(folder, json.loads((folder / _COMPLETE).read_text(encoding="utf-8")))


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` whole checkpoints, and whatever older ones are not whole."""
    whole = [folder for folder in sorted(root.glob("step-*"), reverse=True) if (folder / _COMPLETE).exists()]
    for folder in whole[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


def expected_bytes(weights: int) -> int:
    """What a checkpoint takes, about, where `weights` learn."""
    return _BYTES_PER_WEIGHT * weights + _LEAST_BYTES


def taken_bytes(root: Path) -> int:
    """What the newest finished checkpoint takes; 0 where there is none."""
    if not (step := newest_step(root)):
        return 0
    return sum(path.stat().st_size for path in _files(folder_of(root, step)))


def demand_room(root: Path, weights: int) -> None:
    """Refuse to start where not even two checkpoints fit: the one that is kept, and the next until it is proven.

    Raises:
        WorkspaceError: says what there is, what is needed and what to do.
    """
    held = sum(path.stat().st_size for folder in root.glob("step-*") for path in _files(folder))
    free, needed = free_bytes(root) + held, 2 * expected_bytes(weights)
    if free < needed:
        raise WorkspaceError(
            f"{root} has {in_gib(free)} for checkpoints, but two of them take about {in_gib(needed)}: the newest stays until "
            f"the next is proven. Free some, choose another --workspace, or use method.kind: lora."
        )


def make_room(root: Path, needed: int) -> tuple[bool, str]:
    """Whether a checkpoint of `needed` bytes can be written, and a warning ("" where there is plenty of room).

    Twice as much is wanted. Where it is not there, all older checkpoints but the newest go first.
    """
    if free_bytes(root) >= 2 * needed:
        return True, ""
    prune(root, 1)
    free, fits = free_bytes(root), free_bytes(root) >= needed + _LEAST_BYTES
    kept = f"the newest, of step {newest_step(root)}, stays" if newest_step(root) else "there is none yet"
    outcome = "only the newest is kept" if fits else f"it is not written: {kept}"
    sizes = f"{in_gib(free)} are free, a checkpoint takes {in_gib(needed)}"
    return fits, f"the disk of {root} is almost full: {sizes}; {outcome}"


def free_bytes(root: Path) -> int:
    """What can still be written where the checkpoints lie."""
    return shutil.disk_usage(root).free


def _files(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _COMPLETE)


def _of(folder: Path, content: dict[str, Any]) -> Checkpoint:
    pace = content.get("pace")
    measured = (float(pace[0]), float(pace[1])) if pace else None
    return Checkpoint(folder, int(content["step"]), content["state"], int(content["ranks"]), measured)


def _read(folder: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        content = json.loads((folder / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None, "it was not finished"
    found = {record.path: record.sha256 for record in records_of(folder)}
    for record in content["files"]:
        if found.get(record["path"]) != record["sha256"]:
            return None, f"{record['path']} is not what was written"
    return content, ""
