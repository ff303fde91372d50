"""Checkpoints: whole or not there, hashed, and never read where a hash differs.

`checkpoints/<key>/step-<n>/` holds DeepSpeed's files and, written last, `complete.json` with the step, the losses so far
and the sha256 of each file.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.storage import records_of, write_text

_COMPLETE = "complete.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole."""

    folder: Path
    step: int
    state: dict[str, Any]


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return root / f"step-{step:08d}"


def seal(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Declare the checkpoint whole."""
    files = [record.model_dump() for record in records_of(folder) if record.path != _COMPLETE]
    write_text(folder / _COMPLETE, json.dumps({"step": step, "state": state, "files": files}))


def newest(root: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest whole checkpoint, and why newer ones were passed over."""
    refused: list[str] = []
    for folder in sorted(root.glob("step-*"), reverse=True):
        content, damage = _read(folder)
        if content is not None:
            return Checkpoint(folder, int(content["step"]), content["state"]), tuple(refused)
        refused.append(f"{folder.name}: {damage}")
    return None, tuple(refused)


def newest_step(root: Path) -> int:
    """The step of the newest checkpoint that was finished, without a look at its hashes; 0: there is none."""
    return max((int(path.parent.name.removeprefix("step-")) for path in root.glob(f"step-*/{_COMPLETE}")), default=0)


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` whole checkpoints, and whatever older ones are not whole."""
    whole = [folder for folder in sorted(root.glob("step-*"), reverse=True) if (folder / _COMPLETE).exists()]
    for folder in whole[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


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
