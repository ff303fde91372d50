"""From per-item results to a verdict. Pure: the same results, spec and seed give the same report, number for number."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.contracts import Comparison, EvaluationReport, ModelRole, Score, Speed, TrainedModel, Verdict
from tasks.evaluation.advice import advise, read_history
from tasks.evaluation.examples import pick_examples
from tasks.evaluation.items import ITEMS_FILE, SPEED_FILE, Result, read_results
from tasks.evaluation.significance import (
    Interval,
    difference_interval,
    items_needed,
    items_to_bound_changes,
    least_groups,
    mean_interval,
    sign_flip_p,
)
from tasks.evaluation.spec import EvaluationSpec

MetricName = Literal["loss", "exact_match"]
Against = Literal["base", "incumbent"]
_LEAST_GAP = 1e-9  # less is the rounding of means
_MOST_ITEMS = 10_000_000  # beyond this a number of items is no advice
_TAIL_RESAMPLES = 5  # fewest in each tail for its quantile to mean something


@dataclass(frozen=True)
class Metric:
    """How a metric is read. Two models whose interval of the difference lies within +-`equal` are taken as equivalent.

    The bounds are this project's: 0.01 nats are 1% of perplexity (exp 0.01 = 1.01), and 2 answers of 100 are about what
    rewording a prompt moves. The test is the interval form of two one-sided tests (Schuirmann 1987), conservative at
    the same confidence.
    """

    name: MetricName
    unit: str
    higher_is_better: bool
    equal: float

    @property
    def proportion(self) -> bool:
        """True for a share of items that are 0 or 1."""
        return self.higher_is_better

    def of(self, result: Result) -> float | None:
        """The metric's value of one result; None where it was not measured."""
        value = result.loss if self.name == "loss" else result.exact_match
        return None if value is None else float(value)


METRICS = (
    Metric("loss", "nats per token of the right answers", False, 0.01),
    Metric("exact_match", "of the answers right", True, 0.02),
)


def report(
    folder: Path,
    *,
    spec: EvaluationSpec,
    trained: TrainedModel,
    seed: int,
    items_uri: str,
    history: Path | None = None,
    seconds: float = 0.0,
) -> EvaluationReport:
    """The report on what the worker wrote into `folder`.

    Args:
        folder: holds items.parquet and speed.json.
        spec: what was asked.
        trained: the model examined.
        seed: of every resampling.
        items_uri: final address of items.parquet.
        history: local copy of the training history, for advice; None: none.
        seconds: how long the evaluation took.
    """
    results = read_results(folder / ITEMS_FILE)
    speeds = json.loads((folder / SPEED_FILE).read_text(encoding="utf-8"))
    judged = judge(
        results,
        spec,
        seed=seed,
        model_sha256=trained.sha256,
        data_sha256=trained.data_sha256,
        items_uri=items_uri,
        speed=[Speed.model_validate(speed) for speed in speeds],
        seconds=seconds,
    )
    steps = read_history(history) if history else []
    return judged.model_copy(update={"advice": advise(results, judged.comparisons, spec, trained, steps)})


def judge(
    items: Sequence[Result],
    spec: EvaluationSpec,
    *,
    seed: int,
    model_sha256: str,
    data_sha256: str,
    items_uri: str,
    speed: Sequence[Speed] = (),
    seconds: float = 0.0,
) -> EvaluationReport:
    """Scores, comparisons, verdict and examples; without advice, which also needs the training's history."""
    names = list(dict.fromkeys(benchmark.kind for benchmark in spec.benchmarks))
    scores = [s for name in names for metric in METRICS for s in _scores(items, name, metric, spec, seed)]
    against: tuple[Against, ...] = ("base", "incumbent")
    pairs = [compare(items, name, m, role, spec=spec, seed=seed) for name in names for m in METRICS for role in against]
    comparisons = [pair for pair in pairs if pair is not None]
    return EvaluationReport(
        model_sha256=model_sha256,
        data_sha256=data_sha256,
        scores=tuple(scores),
        comparisons=tuple(comparisons),
        speed=tuple(speed),
        verdict=decide(scores, comparisons, spec),
        examples=pick_examples(items),
        items_uri=items_uri,
        confidence=spec.confidence,
        seconds=seconds,
    )


def compare(
    items: Sequence[Result], benchmark: str, metric: Metric, against: Against, *, spec: EvaluationSpec, seed: int
) -> Comparison | None:
    """The tuned model against another on the items that both have; None where there are none.

    better: the interval lies above the margin (of the deciding metric; 0 for others) and the permutation test agrees.
    worse: it lies below 0, and the test agrees. equivalent: it lies within +- the larger of the metric's bound and the
    margin. Else, and always with fewer groups than could settle anything, there is not enough data.
    """
    own, other = _values(items, benchmark, "tuned", metric), _values(items, benchmark, against, metric)
    shared = [item for item in own if item in other]
    if not shared:
        return None
    sign = 1.0 if metric.higher_is_better else -1.0
    differences = [sign * (own[item][0] - other[item][0]) for item in shared]
    groups = [own[item][1] for item in shared]
    found = difference_interval(
        differences,
        groups,
        confidence=spec.confidence,
        resamples=spec.resamples,
        seed=seed,
        proportion=metric.proportion,
    )
    p_value = sign_flip_p(differences, groups, resamples=spec.resamples, seed=seed)
    margin = _margin(metric.name, spec)
    bound = max(metric.equal, margin)
    verdict = _compared(found, p_value, margin, bound, spec.confidence)
    return Comparison(
        against=against,
        benchmark=benchmark,
        metric=metric.name,
        difference=found.value,
        low=found.low,
        high=found.high,
        p_value=p_value,
        n=found.n,
        verdict=verdict,
        enough=_enough(differences, groups, margin, bound, spec) if verdict == "not enough data" else 0,
    )


def decide(scores: Sequence[Score], comparisons: Sequence[Comparison], spec: EvaluationSpec) -> Verdict:
    """pass: better than the base by the deciding metric of the first benchmark, and significantly worse by no other.

    fail: worse or equivalent by it, or worse by another. inconclusive: not enough data, or the metric was not measured.
    """
    name = spec.benchmarks[0].kind
    base = [c for c in comparisons if c.against == "base"]
    deciding = next((c for c in base if c.benchmark == name and c.metric == spec.metric), None)
    if deciding is None:
        return Verdict(status="inconclusive", reasons=(_unmeasured(name, spec),))
    worse = [c for c in base if c is not deciding and c.verdict == "worse"]
    reasons = (_reason(deciding, scores, spec), *(_reason(c, scores, spec) for c in worse))
    if deciding.verdict == "not enough data" and not worse:
        return Verdict(status="inconclusive", reasons=reasons)
    passed = deciding.verdict == "better" and not worse
    return Verdict(status="pass" if passed else "fail", reasons=reasons)


def check(spec: EvaluationSpec, *, task: str = "", max_positions: int = 0) -> list[str]:
    """What cannot work in `spec`, before any model is loaded; empty where nothing is found.

    Args:
        spec: what was asked.
        task: the dataset's task where it is known; a text has no answers to match.
        max_positions: the model's longest input; 0: not known.
    """
    kinds = [benchmark.kind for benchmark in spec.benchmarks]
    problems = [
        f"evaluation.benchmarks names {kind} {kinds.count(kind)} times; name it once"
        for kind in dict.fromkeys(kinds)
        if kinds.count(kind) > 1
    ]
    if spec.metric == "exact_match":
        problems += _check_exact_match(spec, task)
    for at, benchmark in enumerate(spec.benchmarks):
        if max_positions and benchmark.max_new_tokens >= max_positions:
            problems.append(
                f"evaluation.benchmarks.{at}.max_new_tokens is {benchmark.max_new_tokens}, but the model reads "
                f"{max_positions} positions in all, which leaves no room for a prompt; use at most {max_positions // 2}"
            )
    return problems + _check_enough(spec)


def _check_exact_match(spec: EvaluationSpec, task: str) -> list[str]:
    problems = []
    if spec.benchmarks[0].generated_items == 0:
        problems.append(
            "evaluation.metric is exact_match, but evaluation.benchmarks.0.generated_items is 0, so that no answer is "
            "ever generated; set generated_items, e.g. 200, or metric: loss"
        )
    if task == "text":
        problems.append("evaluation.metric is exact_match, but plain text has no answers to match; use metric: loss")
    if spec.margin >= 1:
        problems.append(
            f"evaluation.margin is {spec.margin:g}, but exact_match is a share of answers, so that no model is better "
            f"by 1 or more; use e.g. 0.02 for two answers of 100"
        )
    return problems


def _check_enough(spec: EvaluationSpec) -> list[str]:
    least = least_groups(spec.confidence)
    first = spec.benchmarks[0]
    wanted = {"items": first.items} | ({"generated_items": first.generated_items} if spec.metric == "exact_match" else {})
    problems = [
        f"evaluation.benchmarks.0.{name} is {most}, but no verdict at a confidence of {spec.confidence:g} can come "
        f"from fewer than {least} items; use at least {least}, better some hundreds"
        for name, most in wanted.items()
        if 0 < most < least
    ]
    fewest = round(2 * _TAIL_RESAMPLES / (1 - spec.confidence))
    if spec.resamples < fewest:
        problems.append(
            f"evaluation.resamples is {spec.resamples}, too few for a confidence of {spec.confidence:g}; use at least {fewest}"
        )
    return problems


def _scores(items: Sequence[Result], benchmark: str, metric: Metric, spec: EvaluationSpec, seed: int) -> list[Score]:
    scores = []
    roles: tuple[ModelRole, ...] = ("base", "tuned", "incumbent")
    for role in roles:
        found = list(_values(items, benchmark, role, metric).values())
        if not found:
            continue
        interval = mean_interval(
            [value for value, _ in found], [group for _, group in found],
            confidence=spec.confidence, resamples=spec.resamples, seed=seed, proportion=metric.proportion,
        )  # fmt: skip
        scores.append(
            Score(
                model=role, benchmark=benchmark, metric=metric.name, value=interval.value, low=interval.low,
                high=interval.high, n=interval.n, higher_is_better=metric.higher_is_better,
            )
        )  # fmt: skip
    return scores


def _values(items: Sequence[Result], benchmark: str, role: ModelRole, metric: Metric) -> Mapping[int, tuple[float, str]]:
    """item -> (value, group) of one model, in the order of the items."""
    found = {}
    for result in items:
        value = metric.of(result)
        if value is not None and result.role == role and result.benchmark == benchmark:
            found[result.item] = (value, result.group)
    return dict(sorted(found.items()))


def _margin(metric: str, spec: EvaluationSpec) -> float:
    return spec.margin if metric == spec.metric else 0.0


def _compared(
    found: Interval, p_value: float, margin: float, bound: float, confidence: float
) -> Literal["better", "worse", "equivalent", "not enough data"]:
    if found.groups < least_groups(confidence):
        return "not enough data"
    # Rounded: 1 - 0.95 is 0.050000000000000044, and an exact p-value may be 0.05.
    significant = p_value <= round(1 - confidence, 12)
    if found.low > margin and significant:
        return "better"
    if found.high < 0 and significant:
        return "worse"
    if -bound <= found.low and found.high <= bound:
        return "equivalent"
    return "not enough data"


def _enough(differences: Sequence[float], groups: Sequence[str], margin: float, bound: float, spec: EvaluationSpec) -> int:
    """Items for 80% power to reach the nearest answer that the observed difference allows; 0 where none is near."""
    value = sum(differences) / len(differences)
    if min(differences) == max(differences) == 0:
        return items_to_bound_changes(len(differences), len(set(groups)), bound, spec.confidence)
    gaps = [value - margin, -value, bound - abs(value)]
    needed = [items_needed(differences, groups, gap, confidence=spec.confidence) for gap in gaps if gap > _LEAST_GAP]
    return min((n for n in needed if n <= _MOST_ITEMS), default=0)


def _unmeasured(benchmark: str, spec: EvaluationSpec) -> str:
    if spec.metric == "loss":
        return f"Nothing can be said: the test split has no row with tokens to score by loss on {benchmark}."
    return (
        f"Nothing can be said: no row of {benchmark} was answered by generation, so there is no exact match. Rows need "
        f"a prompt and a reference answer, and generated_items must be above 0."
    )


def _reason(comparison: Comparison, scores: Sequence[Score], spec: EvaluationSpec) -> str:
    """One sentence with the numbers, one with what follows."""
    metric = next(m for m in METRICS if m.name == comparison.metric)
    value = {s.model: s.value for s in scores if (s.benchmark, s.metric) == (comparison.benchmark, comparison.metric)}
    tuned, other = _number(value["tuned"], metric), _number(value[comparison.against], metric)
    low, high = _number(comparison.low, metric), _number(comparison.high, metric)
    way = "better" if comparison.difference >= 0 else "worse"
    return (
        f"On {comparison.benchmark} the tuned model has {tuned} {metric.unit}, the {comparison.against} {other}: "
        f"{_number(abs(comparison.difference), metric)} {way} ({100 * spec.confidence:g}% interval {low} to {high}, "
        f"positive is better; p = {comparison.p_value:.2g}; {comparison.n} items). "
        f"{_conclusion(comparison, metric, spec)}"
    )


def _conclusion(comparison: Comparison, metric: Metric, spec: EvaluationSpec) -> str:
    margin = _margin(metric.name, spec)
    bound = max(metric.equal, margin)
    if comparison.verdict == "better":
        return f"The whole interval lies above the margin of {margin:g}: it is better."
    if comparison.verdict == "worse":
        return "The whole interval lies below 0: it is worse."
    if comparison.verdict == "equivalent":
        return f"The whole interval lies within {bound:g} of 0: it is no better than the {comparison.against}."
    more = f" About {comparison.enough} items would, were the difference what was seen." if comparison.enough else ""
    return f"{comparison.n} items do not settle whether it is better.{more}"


def _number(value: float, metric: Metric) -> str:
    return f"{100 * value:.1f}%" if metric.proportion else f"{value:.4f}"
