"""The short forms of a result: Markdown for the Prefect UI, plain text for a terminal."""

import base64

from tasks.contracts import FinetuneResult, Score
from tasks.reporting import data_facts, evidence, facts, wording
from tasks.reporting.layout import markdown_list, markdown_table, markdown_text, two_columns


def markdown(result: FinetuneResult) -> str:
    """The result as Markdown: the headline, small tables and the scores as an image."""
    report, cached = result.evaluation, facts.cache_line(result.steps)
    parts = [
        f"**{markdown_text(facts.headline(result))}**",
        _image(result),
        "## Scores",
        markdown_table(
            ("Benchmark", "Metric", "Model", "Value", f"{wording.confidence(report)} interval", "Items"),
            [(*_cells(score), wording.count(score.n)) for score in report.scores],
        ),
        "## Verdict",
        markdown_list(dict.fromkeys((*report.verdict.reasons, *result.rejected_reasons))),
        "## Rows and tokens",
        markdown_table(("What", "Number"), _numbers(result)),
        "## Where",
        markdown_table(
            ("What", "Where"),
            [("Model", facts.model_place(result)), ("Report", result.report_uri), ("MLflow run", result.run_id)],
        ),
        f"{cached[:1].upper()}{cached[1:]}.",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def console_table(result: FinetuneResult) -> str:
    """The result for a terminal, at most 100 columns wide."""
    scores = [(f"{score.model} {wording.name(score.metric).lower()}", score) for score in result.evaluation.scores]
    rows = [
        ("run", result.name),
        *_numbers(result),
        *[(label, _with_interval(score, result)) for label, score in scores],
        ("verdict", f"{result.evaluation.verdict.status}, {result.status}"),
        *[("", f"- {reason}") for reason in dict.fromkeys((*result.evaluation.verdict.reasons, *result.rejected_reasons))],
        ("model", facts.model_place(result)),
        ("report", result.report_uri),
        ("time", f"{wording.duration(result.seconds)}, training {wording.duration(result.model.seconds)}{_earlier(result)}"),
    ]
    return "\n".join([*two_columns(rows), facts.cache_line(result.steps)])


def _numbers(result: FinetuneResult) -> list[tuple[str, str]]:
    parts = data_facts.parts(result.data)
    return [
        *data_facts.ledger_rows(result.data.ledger),
        ("tokens", wording.count(sum(part.tokens for part in parts))),
        ("tokens learned", wording.count(sum(part.supervised_tokens for part in parts))),
        *data_facts.lost_rows(parts),
    ]


def _earlier(result: FinetuneResult) -> str:
    return " in an earlier run" if any(step.step == "train" and step.cached for step in result.steps) else ""


def _with_interval(score: Score, result: FinetuneResult) -> str:
    span = wording.interval(score.low, score.high, score.metric)
    return (
        f"{wording.value(score.value, score.metric)} ({wording.confidence(result.evaluation)} interval {span}, n = {score.n})"
    )


def _cells(score: Score) -> tuple[str, ...]:
    metric = score.metric
    span = wording.interval(score.low, score.high, metric)
    return wording.name(score.benchmark), wording.name(metric), score.model, wording.value(score.value, metric), span


def _image(result: FinetuneResult) -> str:
    svg = evidence.scores(result.evaluation, standalone=True)
    if not svg:
        return ""
    data = base64.b64encode(svg.encode()).decode()
    return f"![{markdown_text(evidence.scores_finding(result.evaluation))}](data:image/svg+xml;base64,{data})"
