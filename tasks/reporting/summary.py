"""The short forms of a result: Markdown for the Prefect UI, plain text for a terminal."""

import base64
import re
import textwrap
from collections.abc import Iterable, Sequence

from tasks.contracts import FinetuneResult, Score, TokenizedSplit
from tasks.reporting import evidence, facts, wording

_COLUMNS = 100
_LABEL = 18


def markdown(result: FinetuneResult) -> str:
    """The result as Markdown: the headline, small tables and the scores as an image."""
    report = result.evaluation
    parts = [
        f"**{_safe(facts.headline(result))}**",
        _image(result),
        "## Scores",
        _table(
            ("Benchmark", "Metric", "Model", "Value", f"{wording.confidence(report)} interval", "Items"),
            [(*_cells(score), wording.count(score.n)) for score in report.scores],
        ),
        "## Verdict",
        _list(dict.fromkeys((*report.verdict.reasons, *result.rejected_reasons))),
        "## Rows and tokens",
        _table(("What", "Number"), [(label, text) for label, text in _numbers(result)]),
        "## Where",
        _table(
            ("What", "Where"),
            [("Model", facts.model_place(result)), ("Report", result.report_uri), ("MLflow run", result.run_id)],
        ),
        f"{facts.cache_line(result)[:1].upper()}{facts.cache_line(result)[1:]}.",
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
    lines = [line for label, text in rows for line in _wrapped(label, text)]
    return "\n".join([*lines, facts.cache_line(result)])


def _numbers(result: FinetuneResult) -> list[tuple[str, str]]:
    ledger, tokenized = result.data.clean.ledger, result.data.tokenized
    parts = (tokenized.train, tokenized.validation, tokenized.test)
    made = [("synthetic", wording.count(ledger.synthetic))] if ledger.synthetic else []
    return [
        ("rows in", wording.count(ledger.rows_in)),
        *made,
        ("rows kept", wording.count(ledger.kept)),
        ("rows dropped", wording.count(sum(c.rows for c in ledger.dropped))),
        *[(f"  {wording.name(c.reason).lower()}", wording.count(c.rows)) for c in ledger.dropped],
        ("tokens", wording.count(sum(part.tokens for part in parts))),
        ("tokens learned", wording.count(sum(part.supervised_tokens for part in parts))),
        *_lost_to_length(parts),
    ]


def _lost_to_length(parts: Sequence[TokenizedSplit]) -> list[tuple[str, str]]:
    """What the longest sequence cost; nothing where it cost nothing."""
    rows, tokens = sum(part.truncated_rows for part in parts), sum(part.truncated_tokens for part in parts)
    gone = [count for part in parts for count in part.dropped]
    cut = [("rows cut short", f"{wording.count(rows)}, {wording.count(tokens)} tokens lost")] if rows else []
    reasons = dict.fromkeys(count.reason for count in gone)
    return cut + [
        (f"  {wording.name(reason).lower()}", wording.count(sum(count.rows for count in gone if count.reason == reason)))
        for reason in reasons
    ]


def _earlier(result: FinetuneResult) -> str:
    return " in an earlier run" if any(step.step == "train" and step.cached for step in result.steps) else ""


def _with_interval(score: Score, result: FinetuneResult) -> str:
    span = wording.interval(score.low, score.high, score.metric)
    return (
        f"{wording.value(score.value, score.metric)} ({wording.confidence(result.evaluation)} interval {span}, n = {score.n})"
    )


def _wrapped(label: str, text: str) -> list[str]:
    """A label and its text in two columns; further lines stand below the text."""
    label = wording.cut(label, 40)
    start = f"{label:<{_LABEL}}  "
    return textwrap.wrap(
        facts.one_line(text) or "-",
        _COLUMNS,
        initial_indent=start,
        subsequent_indent=" " * (_LABEL + 2),
        break_on_hyphens=False,
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
    return f"![{_safe(evidence.scores_finding(result.evaluation))}](data:image/svg+xml;base64,{data})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *[[_safe(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_safe(sentence)}" for sentence in sentences)


def _safe(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", facts.one_line(text).replace("&", "&amp;").replace("<", "&lt;"))
