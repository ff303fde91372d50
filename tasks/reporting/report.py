"""The report of a run: one HTML file that needs nothing else, and the line that says it all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.contracts import FinetuneResult
from tasks.reporting import evidence, facts, figures, wording
from tasks.reporting.facts import headline
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"json": _json}
    asked, unchanged = facts.asked(request, defaults)
    return pages.get_template("report.html").render(
        r=result, w=wording, facts=facts, figures=_figures(result, history), words=facts.verdict_in_words(result),
        outcome=facts.outcome(result), tone=facts.tone(result), asked=asked, unchanged=unchanged,
        knows_defaults=defaults is not None, request=request, history=history,
        quarantined=list(quarantine_examples)[:_MOST_QUARANTINED], generated_at=generated_at,
        environment=facts.environment() if environment is None else environment,
    )  # fmt: skip


def _figures(result: FinetuneResult, history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each figure as trusted SVG with its finding; the words inside were escaped when it was drawn."""
    from markupsafe import Markup

    data, report = result.data, result.evaluation
    ledger, best_step = data.clean.ledger, result.model.best_step
    drawn = {
        "deciding": (evidence.deciding(report, facts.deciding(result)), ""),
        "ledger": (figures.row_ledger(ledger, data.splits), figures.ledger_finding(ledger, data.splits)),
        "loss": (figures.loss_curve(history, best_step), figures.loss_finding(history, best_step)),
        "scores": (evidence.scores(report), evidence.scores_finding(report)),
        "differences": (evidence.differences(report), evidence.differences_finding(report)),
        "tokens": (figures.token_use(data.tokenized), figures.tokens_finding(data.tokenized)),
        "steps": (figures.step_seconds(result.steps), figures.steps_finding(result.steps)),
    }
    return {name: {"svg": Markup(svg), "finding": finding} for name, (svg, finding) in drawn.items()}  # noqa: S704


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
