"""From what was asked for to the files of a base model: a folder, the workspace, a registered version, a store, or the hub."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tasks.contracts import ModelRef, digest_of
from tasks.errors import ModelError
from tasks.models import check_on_hub, describe, download, load_tokenizer, local_folder
from tasks.tracking import Tracker

_REGISTERED = "models:/"


def find_model(
    uri: str, revision: str, workspace: Path, tracker: Tracker, token: str | None, trust_remote_code: bool
) -> ModelRef:
    """The base model with its files at hand.

    Raises:
        ModelError: it is nowhere, or cannot be used.
    """
    commit = ""
    if uri.startswith(_REGISTERED):
        folder = tracker.fetch_model(uri)
    elif "://" in uri:
        folder = _fetch(uri, workspace)
    else:
        found = local_folder(uri, workspace)
        folder, commit = (found, "") if found else download(uri, revision, token)
    return describe(uri, folder, commit, trust_remote_code)


def inspect_model(
    uri: str, revision: str, workspace: Path, tracker: Callable[[], Tracker], token: str | None, trust_remote_code: bool
) -> ModelRef | None:
    """The base model where its files are at hand, its tokenizer tried; None where the hub has it, but it is not here yet.

    Raises:
        ModelError: it is nowhere, or cannot be used.
    """
    if uri.startswith(_REGISTERED):
        folder: Path | None = tracker().fetch_model(uri)
    elif "://" in uri:
        folder = _fetch(uri, workspace)
    else:
        folder = local_folder(uri, workspace)
    if folder is None:
        check_on_hub(uri, revision, token, trust_remote_code)
        return None
    load_tokenizer(folder, trust_remote_code)
    return describe(uri, folder, "", trust_remote_code)


def _fetch(uri: str, workspace: Path) -> Path:
    """A local copy of a folder behind fsspec, named by the listing it was made from."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        # Whatever tells that a file changed: a size alone does not, since tuned weights are as long as their base's.
        listing = sorted((name, filesystem.ukey(name)) for name in filesystem.find(path))
        target = workspace / "cache" / "models" / digest_of([uri, listing])[:24]
        if not target.exists():
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
            filesystem.get(path, str(partial), recursive=True)
            partial.rename(target)
    except Exception as error:
        raise ModelError(f"The model folder {uri} cannot be fetched: {error}.") from error
    return target
