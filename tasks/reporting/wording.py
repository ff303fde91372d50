"""Numbers and names as people read them."""

import math
from collections.abc import Iterable

from tasks.contracts import Comparison, EvaluationReport, Score

_NAMES = {
    "loss": "Loss",
    "exact_match": "Exact match",
    "held_out": "Held-out rows",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "adalora": "AdaLoRA",
    "full": "Full fine-tuning",
}
_UNITS = {"loss": "nats per token of the right answers", "exact_match": "share of answers that are right"}
SHARES = frozenset({"exact_match"})


def count(number: int) -> str:
    """`1234567` as 1,234,567."""
    return f"{number:,}"


def some(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def percent(share: float) -> str:
    """A share of 0..1 with one digit, and never 0% or 100% where it is not."""
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as 0.4 s, 12 s, 3 min 12 s or 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def minutes(seconds: float) -> str:
    """Seconds as minutes with one digit."""
    return f"{seconds / 60:.1f}"


def size(number: int) -> str:
    """Bytes in the unit that leaves one to four digits."""
    if number < 1024:
        return f"{number} B"
    power = min(4, int(math.log(number, 1024)))
    return f"{number / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def usd(amount: float) -> str:
    """Dollars, with enough digits for small sums."""
    return f"${amount:,.2f}" if amount == 0 or amount >= 0.01 else f"${amount:.4f}"


def name(word: str) -> str:
    """The name of a metric, benchmark or reason: `exact_match` as Exact match."""
    if word in _NAMES or " " in word:
        return _NAMES.get(word, word)
    spaced = word.replace("_", " ").replace("-", " ")
    return spaced[:1].upper() + spaced[1:]


def unit(metric: str, higher_is_better: bool) -> str:
    """What a metric counts and which way is good."""
    way = "higher is better" if higher_is_better else "lower is better"
    return f"{_UNITS[metric]}, {way}" if metric in _UNITS else way


def value(number: float, metric: str) -> str:
    """A metric's value: shares as percent, others with four digits."""
    return f"{100 * number:.1f}%" if metric in SHARES else f"{number:.4f}"


def gain(number: float, metric: str) -> str:
    """A difference with its sign; of shares in points."""
    return f"{100 * number:+.1f} points" if metric in SHARES else f"{number:+.4f}"


def interval(low: float, high: float, metric: str) -> str:
    """`1.8000 to 1.9000`."""
    return f"{value(low, metric)} to {value(high, metric)}"


def gains(low: float, high: float, metric: str) -> str:
    """An interval of a difference: `+51.0 to +64.5 points`."""
    return f"{gain(low, metric).removesuffix(' points')} to {gain(high, metric)}"


def confidence(report: EvaluationReport) -> str:
    """`95%`."""
    return f"{100 * report.confidence:g}%"


def p_value(number: float) -> str:
    """`p = 0.012`, and `p < 0.0001` below."""
    return "p < 0.0001" if number < 0.0001 else f"p = {number:.2g}"


def paired(comparison: Comparison, report: EvaluationReport) -> str:
    """The numbers of a comparison: the gain (positive is better), its interval, p and n."""
    metric = comparison.metric
    return (
        f"gain {gain(comparison.difference, metric)}, {confidence(report)} interval "
        f"{gains(comparison.low, comparison.high, metric)}, {p_value(comparison.p_value)}, {some(comparison.n, 'item')}"
    )


def score_of(scores: Iterable[Score], model: str, comparison: Comparison | None) -> Score | None:
    """The score of `model` that a comparison is about."""
    if comparison is None:
        return None
    wanted = (model, comparison.benchmark, comparison.metric)
    return next((score for score in scores if (score.model, score.benchmark, score.metric) == wanted), None)


def cut(text: str, most: int) -> str:
    """At most `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
