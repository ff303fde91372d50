"""The figures of an evaluation: scores and paired differences with their intervals."""

from collections.abc import Sequence
from typing import Any

from tasks.contracts import Comparison, EvaluationReport, Score
from tasks.reporting import wording
from tasks.reporting.drawing import COLOURS, WIDTH, draw, panel

_ROLE_COLOUR = {"base": "grey", "tuned": "blue", "incumbent": "yellow"}


def scores(report: EvaluationReport, standalone: bool = False) -> str:
    """Each metric of each model with its interval, one panel a metric."""
    groups = _by_metric(report.scores)
    if not groups:
        return ""
    heights = [30 * len(rows) + 74 for rows in groups.values()]

    def paint(figure: Any) -> None:
        top = 0.0
        for (benchmark, metric), rows in groups.items():
            _paint_scores(figure, top, benchmark, metric, rows)
            top += 30 * len(rows) + 74

    return draw("scores", scores_finding(report), sum(heights), paint, standalone=standalone)


def deciding(report: EvaluationReport, comparison: Comparison | None) -> str:
    """The scores of the deciding metric alone, for the head of the page."""
    if comparison is None:
        return ""
    wanted = (comparison.benchmark, comparison.metric)
    rows = [score for score in report.scores if (score.benchmark, score.metric) == wanted]
    if not rows:
        return ""
    label = scores_finding(report.model_copy(update={"scores": tuple(rows)}))
    height = 30 * len(rows) + 30
    return draw("deciding", label, height, lambda figure: _paint_rows(panel(figure, 66, 4, 240, height - 30), rows), width=400)


def scores_finding(report: EvaluationReport) -> str:
    """All scores in one sentence."""
    texts = [
        f"{wording.name(s.benchmark)}, {wording.name(s.metric)}, {s.model}: {wording.value(s.value, s.metric)} "
        f"({wording.interval(s.low, s.high, s.metric)})"
        for s in report.scores
    ]
    return f"Scores with {wording.confidence(report)} intervals. {'; '.join(texts)}."


def _by_metric(found: Sequence[Score]) -> dict[tuple[str, str], list[Score]]:
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in found:
        groups.setdefault((score.benchmark, score.metric), []).append(score)
    return groups


def _paint_scores(figure: Any, top: float, benchmark: str, metric: str, rows: Sequence[Score]) -> None:
    axes = panel(figure, 92, top + 32, 520, 30 * len(rows))
    way = wording.unit(metric, rows[0].higher_is_better)
    _title(figure, top + 16, f"{wording.name(metric)}, {wording.name(benchmark).lower()}", way)
    _paint_rows(axes, rows)


def _paint_rows(axes: Any, rows: Sequence[Score]) -> None:
    metric = rows[0].metric
    factor = 100 if metric in wording.SHARES else 1
    for at, row in enumerate(rows):
        _paint_whisker(axes, at, [factor * x for x in (row.low, row.value, row.high)], _ROLE_COLOUR[row.model])
        text = f"{wording.value(row.value, metric)}"
        axes.text(1.04, at, text, transform=axes.get_yaxis_transform(), va="center", fontweight="bold")
    axes.set_yticks(range(len(rows)), [row.model for row in rows], fontsize=13, color=COLOURS["ink"])
    _limits(axes, [factor * x for row in rows for x in (row.low, row.high)], len(rows))
    if metric in wording.SHARES:
        axes.xaxis.set_major_formatter("{x:g}%")


def _title(figure: Any, top: float, title: str, note: str) -> None:
    height = figure.get_figheight() * 72
    figure.text(8 / WIDTH, 1 - top / height, title, va="center", fontweight="bold")
    figure.text(1 - 8 / WIDTH, 1 - top / height, note, va="center", ha="right", fontsize=12, color=COLOURS["soft"])


def _paint_whisker(axes: Any, at: float, points: Sequence[float], colour: str) -> None:
    low, middle, high = points
    axes.plot([low, high], [at, at], color=COLOURS[colour], linewidth=3, solid_capstyle="butt")
    axes.plot([low, high], [at, at], color=COLOURS[colour], linestyle="none", marker="|", markersize=12, markeredgewidth=2)
    axes.plot([middle], [at], color=COLOURS[colour], marker="o", markersize=9)


def _limits(axes: Any, points: Sequence[float], rows: int) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = min(points), max(points)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 0.1
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def differences(report: EvaluationReport) -> str:
    """A forest plot: the paired differences with their intervals against the zero line, one panel a metric."""
    groups = _paired_by_metric(report)
    if not groups:
        return ""
    height = sum(34 * len(rows) + 80 for rows in groups.values())

    def paint(figure: Any) -> None:
        top = 0.0
        for metric, rows in groups.items():
            _paint_forest(figure, top, metric, rows)
            top += 34 * len(rows) + 80

    return draw("differences", differences_finding(report), height, paint)


def differences_finding(report: EvaluationReport) -> str:
    """All comparisons in one sentence."""
    texts = [
        f"{wording.name(c.metric)} against the {c.against}: {c.verdict} ({wording.paired(c, report)})"
        for rows in _paired_by_metric(report).values()
        for _, c in rows
    ]
    return f"Tuned minus other on the same items, positive is better. {'; '.join(texts)}."


def _paired_by_metric(report: EvaluationReport) -> dict[str, list[tuple[str, Comparison]]]:
    groups: dict[str, list[tuple[str, Comparison]]] = {}
    kinds = (("", report.comparisons), ("retention: ", report.retention), ("robustness: ", report.robustness))
    for prefix, rows in kinds:
        for row in rows:
            label = f"{prefix}{wording.name(row.benchmark).lower()} vs {row.against}"
            groups.setdefault(row.metric, []).append((label, row))
    return groups


def _paint_forest(figure: Any, top: float, metric: str, rows: Sequence[tuple[str, Comparison]]) -> None:
    axes = panel(figure, 190, top + 32, 392, 34 * len(rows))
    note = f"gain of the tuned model{', in points' if metric in wording.SHARES else ''}; right of the line is better"
    _title(figure, top + 16, wording.name(metric), note)
    factor = 100 if metric in wording.SHARES else 1
    colours = {"better": "blue", "worse": "orange", "equivalent": "grey", "not enough data": "grey"}
    for at, (_, row) in enumerate(rows):
        _paint_whisker(axes, at, [factor * x for x in (row.low, row.difference, row.high)], colours[row.verdict])
        text = f"{wording.gain(row.difference, metric)}\n{row.verdict}"
        axes.text(1.04, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=12, linespacing=1.3)
    labels = [wording.cut(label, 24) for label, _ in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=12, color=COLOURS["ink"])
    _limits(axes, [0.0, *[factor * x for _, row in rows for x in (row.low, row.high)]], len(rows))
    axes.axvline(0, color=COLOURS["ink"], linewidth=1.4, zorder=1)
