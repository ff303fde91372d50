"""The report of a run: one HTML file that needs nothing else, and the line that says it all."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.contracts import FinetuneResult
from tasks.reporting import evidence, facts, figures
from tasks.reporting.facts import headline
from tasks.reporting.pages import fill_page
from tasks.reporting.summary import console_table, markdown

__all__ = ["console_table", "headline", "markdown", "render"]

_MOST_QUARANTINED = 20


def render(
    result: FinetuneResult,
    request: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    quarantine_examples: Sequence[Mapping[str, Any]] = (),
    *,
    defaults: Mapping[str, Any] | None = None,
    generated_at: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """The report as one HTML file: no script, nothing loaded from anywhere.

    Args:
        result: what happened.
        request: what was asked, as JSON.
        history: the records of the training's history file.
        quarantine_examples: some rows of the quarantine, as dicts of its columns; the first 20 are shown.
        defaults: the request with nothing set, so that set values can stand first. None: not known.
        generated_at: when, in words; "": left out.
        environment: versions to list. None: those of this process.
    """
    asked, unchanged = facts.asked(request, defaults)
    outcome = facts.outcome(result)
    return fill_page(
        "report.html", _figures(result, history), r=result, title=f"{result.name}: {outcome.lower()}",
        words=facts.verdict_in_words(result), outcome=outcome, tone=facts.tone(result), asked=asked, unchanged=unchanged,
        knows_defaults=defaults is not None, request=request, history=history,
        quarantined=list(quarantine_examples)[:_MOST_QUARANTINED], generated_at=generated_at,
        environment=facts.environment() if environment is None else environment,
    )  # fmt: skip


def _figures(result: FinetuneResult, history: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Each figure as SVG with its finding."""
    report, best_step = result.evaluation, result.model.best_step
    return {
        "deciding": (evidence.deciding(report, facts.deciding(result)), ""),
        "loss": (figures.loss_curve(history, best_step), figures.loss_finding(history, best_step)),
        "scores": (evidence.scores(report), evidence.scores_finding(report)),
        "differences": (evidence.differences(report), evidence.differences_finding(report)),
        "steps": (figures.step_seconds(result.steps), figures.steps_finding(result.steps)),
        **figures.of_data(result.data),
    }
