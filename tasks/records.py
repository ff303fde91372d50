"""A run's record: the value of each stage, kept in the store, so that a stage can be started alone and on another machine."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tasks.contracts import RunContext
from tasks.errors import RequestError
from tasks.storage import Store

M = TypeVar("M", bound=BaseModel)
# What a run leaves, in the order in which it comes to be, and who gives it.
GIVEN_BY = {
    "context": "finetune or prepare-data",
    "base": "finetune or prepare-data",
    "data": "finetune or prepare-data",
    "search": "search-settings",
    "training": "finetune or train-model",
    "plan": "finetune or train-model",
    "model": "finetune or train-model",
    "evaluation": "finetune or assess-model",
    "approval": "finetune",
    "release": "finetune or release-model",
    "reproduction": "reproduce",
}


def keep(store: Store, name: str, kind: str, value: BaseModel) -> None:
    """Keep a value of the run `name`; it replaces the one before."""
    store.write(_key(name, kind), value.model_dump_json(indent=1))


def recall(store: Store, name: str, kind: str, value_type: type[M]) -> M:
    """A value of the run `name`.

    Raises:
        RequestError: the run has none, or one of another form.
    """
    text = store.read(_key(name, kind))
    if text is None:
        there = [other for other in GIVEN_BY if store.read(_key(name, other)) is not None]
        found = f"It has: {', '.join(there)}." if there else "Nothing is known of it there."
        giver = GIVEN_BY.get(kind.partition("/")[0], "an earlier stage")
        raise RequestError(
            f"The run {name!r} has no {kind} in the store {store.root}. {found} Start {giver} for it first; workers on other "
            f"machines need a store block, or a workspace that all of them see."
        )
    try:
        return value_type.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise RequestError(f"The {kind} of the run {name!r} has another form ({problem}); start the run again.") from error


def forget(store: Store, name: str) -> None:
    """Remove what stages of the run left: it begins anew, and takes nothing for its own that another start of it left."""
    for kind in GIVEN_BY:
        if kind != "context":
            store.remove(_key(name, kind))


def intact(store: Store, value: BaseModel) -> bool:
    """Whether every cached file that the value names is still what it was."""
    return not any(store.damage_at(uri) for uri in sorted(_uris(value.model_dump())))


def _uris(tree: object) -> set[str]:
    if isinstance(tree, dict):
        own = {item for key, item in tree.items() if key.endswith("uri") and isinstance(item, str)}
        return own.union(*map(_uris, tree.values()))
    return set().union(*map(_uris, tree)) if isinstance(tree, list | tuple) else set()


def recall_if_known(store: Store, name: str, kind: str, value_type: type[M]) -> M | None:
    """A value of the run `name`, or None where it has none.

    Raises:
        RequestError: it has one of another form.
    """
    return recall(store, name, kind, value_type) if known(store, name, kind) else None


def known(store: Store, name: str, kind: str) -> bool:
    """Whether the run has such a value."""
    return store.read(_key(name, kind)) is not None


def _key(name: str, kind: str) -> str:
    return f"runs/{name}/values/{kind}.json"


def context_of(store: Store, name: str, workspace: str) -> RunContext:
    """How the run works, on this machine's workspace.

    Raises:
        RequestError: the run is not known.
    """
    return recall(store, name, "context", RunContext).model_copy(update={"workspace": workspace})
