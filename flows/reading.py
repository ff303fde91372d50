"""Request files: YAML or JSON, with values set on the command line, and errors that say what to write instead."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from flows.request import FinetuneRequest
from tasks.errors import RequestError, unknown_name


def read_request(path: Path, settings: Sequence[str] = ()) -> FinetuneRequest:
    """The request in a file, with `path=value` settings applied.

    Raises:
        RequestError: the file, a setting, a key or a value is at fault; every problem is named.
    """
    content = _read(path)
    for setting in settings:
        _apply(content, setting)
    return parse_request(content, str(path))


def parse_request(content: dict[str, Any], source: str) -> FinetuneRequest:
    """A request from its content.

    Raises:
        RequestError: naming every key and value at fault.
    """
    try:
        return FinetuneRequest.model_validate(content)
    except ValidationError as error:
        problems = [_sentence(dict(problem), content) for problem in error.errors()]
        listed = problems[0] if len(problems) == 1 else "\n" + "\n".join(f"  - {problem}" for problem in problems)
        raise RequestError(f"{source}: {listed}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob("*.y*ml"))[:5] if path.parent.is_dir() else []
        raise RequestError(f"There is no request file {path}." + (f" Here are: {', '.join(near)}." if near else ""))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{path} holds {_kind(content)}, not keys and values. A request starts like this: name: my-model")
    return content


def _kind(content: object) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"


def _apply(content: dict[str, Any], setting: str) -> None:
    path, sign, text = setting.partition("=")
    if not sign or not path:
        raise RequestError(f"--set {setting!r} is not of the form path=value, e.g. --set training.epochs=3.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RequestError(f"--set {setting!r}: the value is not YAML: {error}") from error
    *parents, last = path.split(".")
    place: Any = content
    for key in parents:
        place = _enter(place, key, setting)
    if isinstance(place, list):
        _enter(place, last, setting)
        place[int(last)] = value
    else:
        place[last] = value


def _enter(place: Any, key: str, setting: str) -> Any:
    if isinstance(place, list):
        if not key.isdigit() or int(key) >= len(place):
            raise RequestError(f"--set {setting!r}: {key!r} is not an index of a list of {len(place)}.")
        return place[int(key)]
    if not isinstance(place.get(key, {}), dict | list):
        place[key] = {}
    return place.setdefault(key, {})


def _sentence(problem: dict[str, Any], content: dict[str, Any]) -> str:
    """One problem of pydantic's in our words."""
    location = tuple(str(part) for part in problem["loc"])
    path = ".".join(_without_tags(location, content))
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_name("key", path, _siblings(location, path))
    if kind == "missing":
        return f"{path} is missing: it has no default."
    if kind == "union_tag_invalid":
        known = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        return unknown_name(f"{path}.kind", str(context["tag"]), known)
    if kind == "literal_error" and isinstance(problem["input"], str):
        known = [name.strip(" '") for name in str(context["expected"]).replace(" or ", ",").split(",")]
        return unknown_name(path, problem["input"], known)
    return f"{path} is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ').rstrip('.').lower()}."


def _without_tags(location: tuple[str, ...], content: Any) -> list[str]:
    """The path as it stands in the file: pydantic puts the chosen member of a union into it."""
    path: list[str] = []
    place = content
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if isinstance(place, dict) and (part in place or last):
            place = place.get(part)
        elif isinstance(place, list) and part.isdigit():
            place = place[int(part)]
        elif not last:
            continue
        path.append(part)
    return path


def _siblings(location: tuple[str, ...], path: str) -> list[str]:
    """The keys known beside an unknown one, as whole paths."""
    parent = path.rpartition(".")[0]
    model: Any = FinetuneRequest
    for part in location[:-1]:
        model = _step_into(model, part) or model
    names = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
    return [f"{parent}.{name}" if parent else name for name in names]


def _step_into(model: Any, part: str) -> Any:
    """The model below `part`: a field's, or the member of a union that has this kind."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        field = model.model_fields.get(part)
        return field.annotation if field else None
    members = [model, *getattr(model, "__args__", ())]
    for member in members:
        for candidate in (member, *getattr(member, "__args__", ())):
            kind = getattr(candidate, "model_fields", {}).get("kind")
            if kind is not None and kind.default == part:
                return candidate
    return next((m for m in getattr(model, "__args__", ()) if isinstance(m, type) and issubclass(m, BaseModel)), None)
