"""What one stage gave, for the page of a flow run: a headline, and a table in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tasks.contracts import EvaluationReport, ReleaseResult, TrainedModel, Value


def shown(value: Value) -> tuple[str, str] | None:
    """Headline and Markdown of a stage's value; None for one that has no page of its own."""
    page = _PAGES.get(type(value))
    return page(value) if page else None


def _model(model: TrainedModel) -> tuple[str, str]:
    loss = (
        "no validation rows" if model.validation_loss is None else f"validation loss {model.validation_loss:.4f} nats per token"
    )
    headline = f"{model.method}: {model.steps:,} steps in {model.seconds:.0f} s, {loss}"
    rows = [
        ("base model", model.base.uri), ("weights that learn", f"{model.trainable_parameters:,}"),
        ("best step", model.best_step),
        ("training loss", f"{model.train_loss:.4f}"), ("went on from step", model.resumed_from or "the start"),
        ("sha256", model.sha256[:12]), *((f"recovery at step {each.step}", each.reason) for each in model.recoveries),
    ]  # fmt: skip
    return headline, _table(("what", "value"), rows) + "\n\n" + "\n".join(f"- {reason}" for reason in model.plan.reasons)


def _evaluation(report: EvaluationReport) -> tuple[str, str]:
    headline = f"{report.verdict.status}: {' '.join(report.verdict.reasons)}"
    scores = [
        (each.model, f"{each.benchmark} {each.metric}", f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}", each.n)
        for each in report.scores
    ]
    table = _table(("model", "measure", "value", f"{report.confidence:.0%} interval", "n"), scores)
    return headline, table + "\n\n" + "\n".join(f"- {text}" for text in report.advice)


def _release(release: ReleaseResult) -> tuple[str, str]:
    where = release.deployment.endpoint if release.deployment else ""
    headline = f"released as {release.registered} ({release.alias}) in {where}"
    rows = [
        (each.format, f"{each.bytes / 2**20:.1f}", each.parity.prompts, f"{each.parity.max_difference:.2g}", each.sha256[:12])
        for each in release.exports
    ]
    return headline, _table(("format", "MiB", "prompts compared", "largest difference", "sha256"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


_PAGES: dict[type[Value], Callable[[Any], tuple[str, str]]] = {
    TrainedModel: _model,
    EvaluationReport: _evaluation,
    ReleaseResult: _release,
}
