"""What of a folder is read: its data files, a saved Hugging Face dataset, or the set of a dataset on the hub."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tasks.errors import DatasetError, unknown_name

COMPRESSIONS = (".gz", ".zst")
_ABOUT = frozenset(("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"))  # of datasets, no rows
_OF_A_CACHE = re.compile(r"(cache-|indices|tmp).*\.arrow")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SET_OF = {word: name for name, words in _WORDS.items() for word in words}
_SHARD = re.compile(r"(?:.*/)?(?P<set>\w+(?:\.\w+)*)-\d{5}-of-\d{5}\b[^/]*")
_NAMED = 8


@dataclass(frozen=True)
class Folder:
    """The files below a folder by their paths in it, sorted, and a way to read a small JSON file of it."""

    address: str
    names: Sequence[str]
    read: Callable[[str], Mapping[str, Any]]


def suffix_of(path: str) -> str:
    """The suffix that names the format, in lower case and without a compression's suffix."""
    found = PurePosixPath(path.lower())
    return PurePosixPath(found.stem).suffix if found.suffix in COMPRESSIONS else found.suffix


def told_apart(names: Iterable[str], suffixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that hold rows, and the others."""
    data: list[str] = []
    others: list[str] = []
    for name in names:
        (data if _is_data(name, suffixes) else others).append(name)
    return data, others


def _is_data(path: str, suffixes: Sequence[str]) -> bool:
    name = PurePosixPath(path).name
    usable = suffix_of(name) in suffixes and name not in _ABOUT and not _OF_A_CACHE.fullmatch(name)
    return usable and not name.startswith((".", "_"))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts[:-1])


def left_out(names: Sequence[str]) -> str:
    """What is said of files that hold no rows; "" where there are none."""
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"left out as no rows: {', '.join(names[:_NAMED])}{more}"


def choose(folder: Folder, wanted: str, suffixes: Sequence[str]) -> tuple[list[str], str]:
    """The files of a folder that are read, and what is said of the others.

    Args:
        folder: what lies there.
        wanted: the set that the user named; "" where none.
        suffixes: of files with rows.

    Raises:
        DatasetError: there is no file with rows, or not the set that is asked for.
    """
    if "dataset_dict.json" in folder.names:
        return _saved_sets(folder, wanted)
    if "state.json" in folder.names and "dataset_info.json" in folder.names:
        return _saved(folder, wanted, "")
    data, others = told_apart([name for name in folder.names if not _hidden(name)], suffixes)
    others += [name for name in folder.names if _hidden(name)]
    if not data:
        found = ", ".join(PurePosixPath(name).name for name in folder.names[:_NAMED]) or "nothing"
        raise DatasetError(f"{folder.address}: no file with one of the suffixes {', '.join(suffixes)}; found {found}.")
    on_the_hub = folder.address.startswith("hf://")
    notes = [left_out(others)]
    if wanted or on_the_hub:
        data, note = _set_of_files(folder.address, data, wanted)
        notes.insert(0, note)
    if on_the_hub:
        _check_one_dataset(folder.address, data)
    return data, "; ".join(note for note in notes if note)


def _saved_sets(folder: Folder, wanted: str) -> tuple[list[str], str]:
    """A DatasetDict: a folder of saved datasets."""
    sets = [str(name) for name in folder.read("dataset_dict.json").get("splits") or []]
    chosen, note = pick(folder.address, sets, wanted)
    found = [_saved(folder, "", f"{name}/")[0] for name in chosen]
    return [file for files in found for file in files], note


def _saved(folder: Folder, wanted: str, below: str) -> tuple[list[str], str]:
    """A saved dataset: its state names its Arrow files in the order of their rows."""
    state = folder.read(f"{below}state.json")
    if wanted and wanted != state.get("_split"):
        raise DatasetError(
            f"{folder.address}#{wanted}: this is one saved dataset without named sets. Write the address without #{wanted}."
        )
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DatasetError(
            f"{folder.address}: the saved dataset is a selection of rows over other rows. "
            f"Call flatten_indices() on it and save it again."
        )
    files = [below + str(entry["filename"]) for entry in state.get("_data_files") or []]
    missing = [name for name in files if name not in folder.names]
    if missing or not files:
        what = f"its state.json names {', '.join(missing)}, not found" if missing else "it holds no rows"
        raise DatasetError(f"{folder.address}: a saved dataset, but {what}. Save or copy it again.")
    return files, ""


def set_of(path: str) -> str:
    """The set that a file belongs to by its path, as the hub reads it; "" where the path says nothing."""
    shard = _SHARD.fullmatch(path)
    if shard:
        return _SET_OF.get(shard["set"], shard["set"])
    words = [_SET_OF[word] for word in re.split(r"[-._ /0-9]+", path.lower()) if word in _SET_OF]
    return words[-1] if words else ""


def _set_of_files(address: str, names: Sequence[str], wanted: str) -> tuple[list[str], str]:
    by_set: dict[str, list[str]] = {}
    for name in names:
        by_set.setdefault(set_of(name), []).append(name)
    unnamed = by_set.pop("", [])
    if unnamed and not wanted and "train" not in by_set and all(role_of(name) for name in by_set):
        rest = f"; {', '.join(by_set)} left out, named as sets for tests" if by_set else ""
        return unnamed, f"read: the {len(unnamed)} files that no set's name is in{rest}" if by_set else ""
    chosen, note = pick(address, list(by_set), wanted)
    files = [file for name in chosen for file in by_set[name]]
    return files, note + (f"; of no set and left out: {', '.join(unnamed[:_NAMED])}" if unnamed else "")


def _check_one_dataset(address: str, names: Sequence[str]) -> None:
    """Stop where files would be read together that are several datasets, or one dataset several times."""
    folders = sorted({_place(name) for name in names})
    if len(folders) > 1:
        listed = ", ".join(folder or "(top)" for folder in folders[:_NAMED])
        named = next(folder for folder in folders if folder)
        raise DatasetError(f"{address} holds several datasets: {listed}. Name the one you mean, e.g. {address}/{named}.")
    kinds = sorted({suffix_of(name) for name in names})
    if len(kinds) > 1:
        raise DatasetError(
            f"{address} holds files of several formats: {', '.join(names[:_NAMED])}. Name those you mean, e.g. "
            f"{address}/*{kinds[0]}."
        )


def _place(name: str) -> str:
    return "/".join(part for part in PurePosixPath(name).parts[:-1] if part != "data" and part not in _SET_OF)


def role_of(name: str) -> str:
    """ "validation" or "test" where a set's name says that it is none to learn from, else ""."""
    words = {_SET_OF.get(word, "") for word in re.split(r"[^a-z]+", name.lower())}
    return next((role for role in ("test", "validation") if role in words), "")


def pick(address: str, sets: Sequence[str], wanted: str) -> tuple[list[str], str]:
    """The sets that are read, and the sentence that says so: those named, else the one to train on.

    Raises:
        DatasetError: there is none of that name, or several could be meant.
    """
    if wanted:
        chosen = list(dict.fromkeys(_named(address, name.strip(), sets) for name in wanted.split(",")))
    elif len(sets) == 1:
        chosen = list(sets)
    else:
        train = [name for name in sets if _SET_OF.get(name.lower()) == "train"]
        chosen = train or [name for name in sets if not role_of(name)]
    if len(chosen) != 1 and not wanted:
        listed = f"the sets {', '.join(sets)}" if sets else "no set"
        example = f"{address}#{sets[0]}" if sets else f"{address}#train"
        raise DatasetError(f"{address} holds {listed}, and none that is plainly the one to train on. Write e.g. {example}.")
    others = [name for name in sets if name not in chosen]
    if not others:
        return chosen, ""
    read = f"the set {chosen[0]!r} is read" if len(chosen) == 1 else f"the sets {', '.join(map(repr, chosen))} are read"
    return chosen, f"{read}, {', '.join(others)} left out; name others with e.g. #{others[0]} at the end of the address"


def _named(address: str, name: str, sets: Sequence[str]) -> str:
    if name in sets:
        return name
    same = [known for known in sets if name in _SET_OF and _SET_OF.get(known) == _SET_OF[name]]
    if not sets:
        raise DatasetError(f"{address}#{name}: nothing there is named as a set. Write the address without #{name}.")
    if len(same) != 1:
        raise DatasetError(f"{address}: {unknown_name('set', name, sets)}")
    return same[0]
