"""A search from its recorded trials: what is still to run, which trial is best, and what to say about it."""

import math
from collections.abc import Sequence

from tasks.contracts import Objective, SearchResult, Setting, Trial, Value
from tasks.errors import SearchError
from tasks.search.space import Settings, Space
from tasks.search.spec import SearchSpec
from tasks.search.strategies import Proposer

CONTROL = 0  # the trial with the request's own settings


class Proposal(Value):
    """A trial that is still to run."""

    number: int
    settings: Settings


def pending(
    strategy: Proposer, space: Space, told: Sequence[Trial], *, trials: int, parallel: int, seed: int
) -> tuple[Proposal, ...]:
    """What can run now, at most `parallel` at a time; nothing when the search is over.

    An adaptive strategy learns from whole rounds of `parallel` trials alone. So its proposals do not depend on which trial
    of a round ended first, and a search that was killed goes on as it would have.
    """
    recorded = {trial.number for trial in told}
    found: list[Proposal] = []
    for number in range(trials):
        starts_round = number % parallel == 0
        if strategy.adaptive and starts_round and found:
            break
        if number in recorded:
            continue
        before = _before_round(told, number, parallel) if strategy.adaptive else ()
        settings = strategy.propose(space, before, number, seed)
        if settings is None:
            break
        found.append(Proposal(number=number, settings=settings))
    return tuple(found)


def choose_best(trials: Sequence[Trial]) -> tuple[Trial, str]:
    """The trial with the best first objective, the lowest number where several have it, and what sets it apart.

    Raises:
        SearchError: no trial was measured.
    """
    measured = _measured(trials)
    if not measured:
        raise SearchError(_nothing_measured(trials))
    best = min(measured, key=lambda trial: (_signed(trial.objectives[0]), trial.number))
    control = next((trial for trial in trials if trial.number == CONTROL), None)
    return best, f"best: {_against_control(best, control, len(trials))}"


def front(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Numbers of the measured trials that no other beats in one objective without losing in another."""
    points = {trial.number: tuple(_signed(objective) for objective in trial.objectives) for trial in _measured(trials)}
    return tuple(sorted(at for at, point in points.items() if not any(_beats(other, point) for other in points.values())))


def conclude(spec: SearchSpec, space: Space, trials: Sequence[Trial]) -> SearchResult:
    """The result of a search that is over.

    Raises:
        SearchError: no trial was measured.
    """
    ordered = tuple(sorted(trials, key=lambda trial: trial.number))
    best, reason = choose_best(ordered)
    reasons = [space.reason, reason]
    if unmeasured := [trial for trial in ordered if trial not in _measured(ordered)]:
        reasons.append(f"{len(unmeasured)} of {len(ordered)} trials gave no measurement: {_causes(unmeasured)}")
    if len(ordered) < spec.trials:
        reasons.append(f"{len(ordered)} of {spec.trials} trials: {spec.strategy.kind} had no other settings left to propose")
    return SearchResult(
        strategy=spec.strategy.kind, best=best, trials=ordered, front=front(ordered),
        control=tuple(trial.number for trial in ordered if trial.number == CONTROL), reasons=tuple(reasons),
    )  # fmt: skip


def summarize(result: SearchResult) -> str:
    """The search in a sentence."""
    best = result.best
    done = len(_measured(result.trials))
    chosen = "the request's own settings" if best.number == CONTROL else _plain(best.settings)
    return (
        f"{result.strategy} search: {done} of {len(result.trials)} trials measured; "
        f"trial {best.number} is best ({_measure(best)}): {chosen}."
    )


def tabulate(result: SearchResult) -> str:
    """The trials as a Markdown table, the best one first in bold, the others by number."""
    paths = list(dict.fromkeys(path for trial in result.trials for path in trial.settings))
    names = list(dict.fromkeys(each.name for trial in result.trials for each in trial.objectives))
    head = ["trial", *(f"`{path}`" for path in paths), *names, "status", "took"]
    others = [trial for trial in result.trials if trial.number != result.best.number]
    rows = [_row(trial, paths, names, result) for trial in (result.best, *others)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def _before_round(told: Sequence[Trial], number: int, parallel: int) -> tuple[Trial, ...]:
    """The trials of the rounds before the one of `number`, in order."""
    start = number - number % parallel
    return tuple(sorted((trial for trial in told if trial.number < start), key=lambda trial: trial.number))


def _measured(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that can be compared: done, with numbers that are finite."""
    return [
        trial
        for trial in trials
        if trial.status == "done" and trial.objectives and all(math.isfinite(each.value) for each in trial.objectives)
    ]


def _signed(objective: Objective) -> float:
    """The value, lower always better."""
    return objective.value if objective.lower_is_better else -objective.value


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one point is nowhere worse than another and somewhere better (Pareto dominance)."""
    return tuple(one) != tuple(other) and all(a <= b for a, b in zip(one, other, strict=True))


def _against_control(best: Trial, control: Trial | None, count: int) -> str:
    """The best trial beside the request's own settings."""
    if best.number == CONTROL:
        return f"the request's own settings (trial 0, {_measure(best)}); none of {count - 1} other trials was better"
    text = f"trial {best.number} of {count}, {_measure(best)}, with {_plain(best.settings)}"
    if control is None or not _measured([control]):
        why = control.reason if control and control.reason else "not measured"
        return f"{text}; the request's own settings are no comparison: {why}"
    own, found = control.objectives[0].value, best.objectives[0]
    side = "below" if found.value < own else "above"
    return f"{text}; {abs(found.value - own):.4g} {side} the request's own settings ({own:.4g}), one training each"


def _nothing_measured(trials: Sequence[Trial]) -> str:
    if not trials:
        return "The search has no trial: nothing was recorded. Run it again."
    return (
        f"None of the {len(trials)} trials of the search gave a measurement: {_causes(trials)}. "
        f"Try the request's own settings alone with search.strategy.kind none, then a narrower search.space."
    )


def _causes(trials: Sequence[Trial], most: int = 3) -> str:
    """The first few reasons, and how many more there are."""
    told = [f"trial {trial.number} ({trial.reason or trial.status})" for trial in trials[:most]]
    return ", ".join(told) + (f" and {len(trials) - most} more" if len(trials) > most else "")


def _measure(trial: Trial) -> str:
    first = trial.objectives[0]
    return f"{first.name} {first.value:.4g}"


def _plain(settings: dict[str, Setting]) -> str:
    return ", ".join(f"{path} {_short(value)}" for path, value in settings.items())


def _short(value: Setting) -> str:
    """A value as it would stand in a request, numbers with four digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(trial: Trial, paths: Sequence[str], names: Sequence[str], result: SearchResult) -> list[str]:
    measured = {each.name: f"{each.value:.4g}" for each in trial.objectives}
    number = f"{trial.number} (the request's own)" if trial.number in result.control else str(trial.number)
    status = f"{trial.status}: {trial.reason}" if trial.reason else trial.status
    cells = [number, *(_short(trial.settings.get(path, "")) for path in paths)]
    cells += [*(measured.get(name, "") for name in names), status, f"{trial.seconds:.0f} s"]
    plain = [" ".join(cell.replace("|", "\\|").split()) for cell in cells]
    return [f"**{cell}**" if cell and trial.number == result.best.number else cell for cell in plain]
