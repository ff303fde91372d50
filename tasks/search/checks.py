"""What is wrong with a search, found before anything runs."""

from collections.abc import Iterator

from pydantic import BaseModel

from tasks.contracts import ModelRef, Setting
from tasks.errors import RequestError, unknown_name
from tasks.search.dimensions import Choice, Dimension, Number
from tasks.search.space import FIXED, make_space, refusal, settings_of
from tasks.search.spec import SearchSpec


def check(spec: SearchSpec, method: BaseModel, training: BaseModel, base: ModelRef | None = None) -> list[str]:
    """Every problem of a search, a sentence each: unknown paths, values that a setting does not take, a grid too large.

    Args:
        base: the model to train, which the method is asked about. None: not known yet.
    """
    problems = [
        f"search.space.{at}: {problem}"
        for at, dimension in enumerate(spec.space)
        for problem in _problems(dimension, method, training, base)
    ]
    if not problems and (problem := spec.strategy.check(make_space(spec.space, method, training, base), spec.trials)):
        problems.append(f"search.strategy {spec.strategy.kind}: {problem}.")
    return problems


def demand_possible(spec: SearchSpec, method: BaseModel, training: BaseModel, base: ModelRef, validation_rows: int) -> None:
    """Refuse a search that cannot be made or judged.

    Raises:
        RequestError: naming every problem.
    """
    problems = check(spec, method, training, base)
    if spec.strategy.kind == "none":
        problems.append("search.strategy.kind is none: there is nothing to search. Choose another, e.g. random.")
    if not validation_rows:
        problems.append("The data have no validation rows to compare trials by: set data.splitting.validation above 0.")
    if problems:
        raise RequestError(" ".join(problems))


def _problems(dimension: Dimension, method: BaseModel, training: BaseModel, base: ModelRef | None) -> Iterator[str]:
    known = settings_of(method, training)
    if reason := FIXED.get(dimension.path):
        yield f"{dimension.path} cannot vary: {reason}."
    elif dimension.path not in known:
        yield unknown_name("setting", dimension.path, known)
    else:
        found = [refusal({dimension.path: value}, method, training, base) for value in dimension.ends()]
        better = _better_kind(dimension, known[dimension.path])
        yield from [better] if better and any(found) else filter(None, found)


def _better_kind(dimension: Dimension, current: Setting) -> str:
    """Which kind of dimension a setting takes, where its present value says that it is not this one; else ""."""
    if isinstance(dimension, Choice):
        return ""
    if isinstance(current, bool | str):
        return f"{dimension.path} is {'text' if isinstance(current, str) else 'true or false'}: use kind choice."
    if isinstance(current, int) and isinstance(dimension, Number):
        return f"{dimension.path} is a whole number: use kind integer."
    return ""
