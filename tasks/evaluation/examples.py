"""Which answers a report shows: by a fixed rule, so that nobody picks the flattering ones."""

from collections.abc import Sequence

from tasks.contracts import Example
from tasks.evaluation.items import Result

RULE = (
    "By row: up to three answers that became right, up to two that became wrong, up to two wrong from both models, and "
    "right from both up to eight in all."
)
_MOST = 8
_CUT = 600  # characters
_SHARES = (((False, True), 3), ((True, False), 2), ((False, False), 2), ((True, True), _MOST))


def pick_examples(results: Sequence[Result]) -> tuple[Example, ...]:
    """Up to eight items answered by both models, chosen by `RULE`, texts cut at 600 characters."""
    answered = [result for result in results if result.exact_match is not None]
    base = {(r.benchmark, r.item): r for r in answered if r.role == "base"}
    tuned = {(r.benchmark, r.item): r for r in answered if r.role == "tuned"}
    keys = sorted(base.keys() & tuned.keys())
    picked: list[tuple[str, int]] = []
    for flip, most in _SHARES:
        same = [key for key in keys if (base[key].exact_match, tuned[key].exact_match) == flip]
        picked += same[: min(most, _MOST - len(picked))]
    return tuple(_example(base[key], tuned[key]) for key in picked)


def _example(base: Result, tuned: Result) -> Example:
    return Example(
        prompt=_end(base.prompt),
        reference=_start(base.reference),
        base=_start(base.answer or ""),
        tuned=_start(tuned.answer or ""),
    )


def _start(text: str) -> str:
    return text if len(text) <= _CUT else text[: _CUT - 1] + "…"


def _end(text: str) -> str:
    """The end of a prompt, where the question stands."""
    return text if len(text) <= _CUT else "…" + text[1 - _CUT :]
