"""The workspace: the one folder in which everything a run leaves behind lies."""

import os
import shutil
from pathlib import Path

from tasks.errors import WorkspaceError

_VARIABLE = "TUNEFLOW_WORKSPACE"
_DEFAULT = ".tuneflow"


def workspace_folder(asked: str = "") -> Path:
    """The absolute folder: as asked, else TUNEFLOW_WORKSPACE, else .tuneflow in the current folder."""
    return Path(asked or os.environ.get(_VARIABLE) or _DEFAULT).expanduser().absolute()


def prepare_workspace(folder: Path) -> None:
    """Make the workspace and prove that it can be written.

    Raises:
        WorkspaceError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"tuneflow")
        probe.unlink()
    except OSError as error:
        raise WorkspaceError(
            f"The workspace {folder} cannot be written: {error.strerror}. Choose another with --workspace or {_VARIABLE}."
        ) from error


def demand_disk(folder: Path, needed_bytes: int, what: str) -> str:
    """Say how much disk is free.

    Raises:
        WorkspaceError: less than `needed_bytes`.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise WorkspaceError(
            f"{what} needs about {in_gib(needed_bytes)} of disk, and {folder} has {in_gib(free)} free. Free some, or choose "
            f"another --workspace."
        )
    return f"{in_gib(free)} free, about {in_gib(needed_bytes)} needed"


def in_gib(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.2f} GiB"
