"""Request files: YAML or JSON, with values set on the command line, and errors that say what to write instead."""

import json
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from flows.request import FinetuneRequest
from tasks.errors import RequestError, unknown_name

Problem = dict[str, Any]
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "keys and values",
}
_LIMITS = {
    "greater_than": ("gt", "above {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "below {}"),
    "less_than_equal": ("le", "at most {}"),
    "too_short": ("min_length", "at least {} of them"),
    "string_too_short": ("min_length", "at least {} character(s)"),
}


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
        problems = _sentences([dict(problem) for problem in error.errors()], content)
        listed = problems[0] if len(problems) == 1 else "\n" + "\n".join(f"  - {problem}" for problem in problems)
        raise RequestError(f"{source}: {listed}") from error


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: of its two values one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, once its keys have been counted."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        near = sorted(str(other) for other in folder.glob("*.y*ml"))[:5] if folder.is_dir() else []
        raise RequestError(f"There is no request file {path}." + (f" Here are: {', '.join(near)}." if near else ""))
    try:
        text = path.read_text(encoding="utf-8")
        # JSON may be indented with tabs, which YAML refuses.
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RequestError(f"{path}{line}: not YAML: {error.problem}.") from error
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as YAML or JSON: {error}.") from error
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
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise RequestError(f"--set {setting!r}: the value is not YAML: {error}") from error
    *parents, last = path.split(".")
    place: Any = content
    for key in parents:
        place = _enter(place, key, setting)
    place[_slot(place, last, setting)] = value


def _enter(place: Any, key: str, setting: str) -> Any:
    """What lies below `key`, made where there is nothing that could hold a key."""
    slot = _slot(place, key, setting)
    below = place[slot] if isinstance(place, list) else place.get(slot)
    if not isinstance(below, dict | list):
        below = place[slot] = {}
    return below


def _slot(place: Any, key: str, setting: str) -> Any:
    """The key, or the index where `place` is a list."""
    if not isinstance(place, list):
        return key
    if not key.isdigit() or int(key) >= len(place):
        raise RequestError(f"--set {setting!r}: {key!r} is not an index of a list of {len(place)}; the first is 0.")
    return int(key)


def _sentences(problems: Sequence[Problem], content: dict[str, Any]) -> list[str]:
    """Pydantic's problems in our words. Where every member of a union refused a value, those that got deepest speak."""
    by_path: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems:
        by_path.setdefault(_path_in(content, problem), []).append(problem)
    outer = {path[:size] for path in by_path for size in range(len(path))}
    return [_sentence(path, found) for path, found in by_path.items() if path not in outer]


def _path_in(content: Any, problem: Problem) -> tuple[str, ...]:
    """The path as it stands in the file: pydantic puts the chosen member of a union into it."""
    path: list[str] = []
    place = content
    location = [str(part) for part in problem["loc"]]
    for number, part in enumerate(location, 1):
        keys = {str(key): key for key in place} if isinstance(place, dict) else {}
        if part in keys:
            place = place[keys[part]]
        elif isinstance(place, list) and part.isdigit():
            place = place[int(part)]
        elif problem["type"] != "missing" or number < len(location):
            continue
        path.append(part)
    return tuple(path)


def _sentence(path: tuple[str, ...], problems: Sequence[Problem]) -> str:
    """What is wrong at `path`: one problem for each type that the value might have had."""
    problem = problems[0]
    name, kind, context = ".".join(path), problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path, problem["loc"])
    if kind == "missing":
        return f"{name} is missing: it has no default."
    if kind == "union_tag_not_found":
        kinds = [model.model_fields["kind"].default for model in _models_at(problem["loc"])]
        return f"{name}.kind is missing. Known: {', '.join(sorted(kinds))}."
    if kind == "union_tag_invalid":
        return unknown_name(f"{name}.kind", str(context["tag"]), _names(context["expected_tags"]))
    if kind == "literal_error" and isinstance(problem["input"], str) and len(problems) == 1:
        return unknown_name(name, problem["input"], _names(context["expected"]))
    return _about_value(name, problems)


def _about_value(name: str, problems: Sequence[Problem]) -> str:
    """What a value is, and what it should be."""
    problem = problems[0]
    found = "is empty" if problem["input"] is None else f"is {_short(problem['input'])}"
    if problem["type"] == "value_error":
        return f"{name} {found}: {problem['msg'].removeprefix('Value error, ').rstrip('.')}."
    expected = list(dict.fromkeys(_expectation(each) for each in problems))
    quotes = "; put it in quotes" if expected == ["text"] and isinstance(problem["input"], int | float) else ""
    return f"{name} {found}, expected {' or '.join(expected)}{quotes}."


def _expectation(problem: Problem) -> str:
    kind = problem["type"]
    if kind in _LIMITS:
        key, form = _LIMITS[kind]
        limit = problem["ctx"][key]
        return form.format(int(limit) if limit == int(limit) else limit)
    if kind in ("model_type", "model_attributes_type"):
        return f"keys and values such as {_first_key(_models_at(problem['loc'])[0])}"
    if kind == "literal_error":
        return str(problem["ctx"]["expected"])
    return _TYPES.get(kind.split("_")[0]) or str(problem["msg"]).lower()


def _first_key(model: type[BaseModel]) -> str:
    name, field = next(iter(model.model_fields.items()))
    return f"{{{name}: {'...' if field.is_required() else field.default}}}"


def _names(listed: str) -> list[str]:
    return [name.strip(" '") for name in listed.replace(" or ", ",").split(",")]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown_key(path: tuple[str, ...], location: Sequence[str | int]) -> str:
    """Say which keys there are beside an unknown one, or where it belongs."""
    parent, key = ".".join(path[:-1]), path[-1]
    what = f"{parent} key" if parent else "key"
    if homes := [place for place, name in _keys(FinetuneRequest) if name == key]:
        return f"Unknown {what} {key!r}: it belongs to {' or '.join(home or 'the top level' for home in homes)}."
    return unknown_name(what, key, dict.fromkeys(name for model in _models_at(location[:-1]) for name in model.model_fields))


def _keys(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, str]]:
    """(place, key) of every key that a request can have."""
    for name, field in model.model_fields.items():
        yield place, name
        for below in _models(field.annotation):
            yield from _keys(below, f"{place}.{name}" if place else name)


def _models_at(location: Sequence[str | int]) -> list[type[BaseModel]]:
    """The models that may stand at a location of pydantic's: a field's, or the member of a union that it names."""
    models: list[type[BaseModel]] = [FinetuneRequest]
    for part in location:
        below = [found for model in models if part in model.model_fields for found in _models(model.model_fields[str(part)])]
        chosen = [model for model in models if part in (model.__name__, _kind_of(model))]
        models = below or chosen or models
    return models


def _kind_of(model: type[BaseModel]) -> object:
    kind = model.model_fields.get("kind")
    return kind.default if kind else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model inside an annotation."""
    annotation = getattr(annotation, "annotation", annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]
