"""Settings as points of a unit cube, read from a request and set in it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tasks.contracts import ModelRef, Setting, Value
from tasks.errors import RequestError
from tasks.search.dimensions import Choice, Dimension, Number

Settings = dict[str, Setting]
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", bound=BaseModel)
FIXED = {
    "method.kind": "a search compares the settings of one method; write one request for each method",
    "training.max_length": "all trials share the tokenized data",
    "training.epochs": "every trial trains for search.steps steps",
    "training.max_steps": "every trial trains for search.steps steps",
}


class Space(Value):
    """What varies. `control` holds the request's own value of each path, `reason` says who chose the dimensions."""

    dimensions: tuple[Dimension, ...]
    control: Settings
    reason: str

    def at(self, point: Sequence[float]) -> Settings:
        """The settings at a point of the unit cube, one coordinate in [0, 1) for each dimension."""
        pairs = zip(self.dimensions, point, strict=True)
        return {dimension.path: dimension.value_at(float(position)) for dimension, position in pairs}

    def size(self) -> float:
        """How many different settings there are."""
        return math.prod(dimension.count() for dimension in self.dimensions)

    def control_is_inside(self) -> bool:
        """Whether the request's own settings are among those of a space of limited size."""
        return all(_holds(dimension, self.control[dimension.path]) for dimension in self.dimensions)


def make_space(dimensions: Sequence[Dimension], method: BaseModel, training: BaseModel, base: ModelRef | None = None) -> Space:
    """The space that was asked for, or the automatic one of the method where `dimensions` is empty.

    Args:
        base: leaves out of the automatic space what the method cannot do with this model. None: not known yet.
    """
    own = settings_of(method, training)
    if dimensions:
        chosen, reason = list(dimensions), f"space: {_listed(dimensions)}, as asked"
    else:
        chosen, reason = choose_dimensions(method, training, base)
    return Space(dimensions=tuple(chosen), control={dimension.path: own[dimension.path] for dimension in chosen}, reason=reason)


def choose_dimensions(method: BaseModel, training: BaseModel, base: ModelRef | None = None) -> tuple[list[Dimension], str]:
    """The automatic dimensions of a method, and why: its learning rate and, where it has one, its rank."""
    own = settings_of(method, training)
    rate, why = _choose_rates(float(own["training.learning_rate"] or 0), bool(getattr(method, "adapter", False)))
    chosen: list[Dimension] = [rate]
    rank = own.get("method.rank")
    if isinstance(rank, int):
        near = [value for value in (rank // 2, rank, rank * 2) if not refusal({"method.rank": value}, method, training, base)]
        if len(near) > 1:
            chosen.append(Choice(path="method.rank", values=list(near)))
            why += f", and half and double the rank {rank}"
    return chosen, f"space: {_listed(chosen)}; {why}"


def _choose_rates(asked: float, adapter: bool) -> tuple[Number, str]:
    """The range of learning rates: around the one that was asked for, else the usual one of the kind of method."""
    if asked:
        low, high, why = asked / 10, min(asked * 10, 1.0), f"a tenth to ten times the learning rate {asked:g}"
    elif adapter:
        low, high, why = 1e-5, 1e-3, "learning rates that suit adapters"
    else:
        low, high, why = 1e-6, 1e-4, "learning rates that suit training every weight"
    return Number(path="training.learning_rate", low=low, high=high, log=True), why


def settings_of(method: BaseModel, training: BaseModel) -> Settings:
    """Path and value of every setting of a request that a trial may vary."""
    found = [*_leaves("method", method), *_leaves("training", training)]
    return {path: value for path, value in found if path not in FIXED}


def apply(settings: Mapping[str, Setting], method: M, training: T) -> tuple[M, T]:
    """The method and the training with these settings; all else, and what counts as asked for, stays.

    Raises:
        RequestError: the settings are not allowed together, or one is of the wrong type or out of its range.
    """
    below = _nested(settings)
    try:
        return _rebuilt(method, below.get("method", {})), _rebuilt(training, below.get("training", {}))
    except ValidationError as error:
        given = ", ".join(f"{path} {value!r}" for path, value in settings.items())
        raise RequestError(f"{given} cannot be: {'; '.join(_wording(dict(each)) for each in error.errors())}.") from error


def refusal(settings: Mapping[str, Setting], method: BaseModel, training: BaseModel, base: ModelRef | None = None) -> str:
    """Why a request cannot have these settings; "" where it can.

    Args:
        base: asks the method whether it can train this model. None: not known yet.
    """
    try:
        changed, _ = apply(settings, method, training)
    except RequestError as error:
        return str(error)
    look = getattr(changed, "check", None)
    return f"{problem}." if base and look and (problem := look(base)) else ""


def _leaves(place: str, model: BaseModel) -> Iterator[tuple[str, Setting]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(f"{place}.{name}", value)
        elif isinstance(value, str | int | float | bool):
            yield f"{place}.{name}", value


def _nested(settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings as a tree: {"a.b": 1} is {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, last = path.split(".")
        place = tree
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = value
    return tree


def _rebuilt(model: M, changes: dict[str, Any]) -> M:
    """A validated copy; strict, since "8" or 8.0 for a whole number is a mistake of whoever wrote the space."""
    fields = {name: getattr(model, name) for name in model.model_fields_set}
    for name, change in changes.items():
        own = getattr(model, name, None)
        fields[name] = _rebuilt(own, change) if isinstance(own, BaseModel) else change
    return type(model).model_validate(fields, strict=True)


def _wording(problem: dict[str, Any]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    if message.startswith("Input "):
        message = "it " + message.removeprefix("Input ")
    if problem["type"] == "float_type" and _reads_as_number(problem["input"]):
        message += f"; {problem['input']!r} is text: without quotes, YAML wants a dot, as in 1.0e-4"
    return message


def _reads_as_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return isinstance(value, str)


def _holds(dimension: Dimension, value: Setting) -> bool:
    if isinstance(dimension, Choice):
        return value in dimension.values
    return isinstance(value, int | float) and dimension.low <= value <= dimension.high


def _listed(dimensions: Sequence[Dimension]) -> str:
    return ", ".join(_described(dimension) for dimension in dimensions)


def _described(dimension: Dimension) -> str:
    if isinstance(dimension, Choice):
        return f"{dimension.path} in {', '.join(str(value) for value in dimension.values)}"
    return f"{dimension.path} {dimension.low:g} to {dimension.high:g}{' by logarithm' if dimension.log else ''}"
