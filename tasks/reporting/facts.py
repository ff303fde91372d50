"""What the report says, as plain tables and sentences; the page and the terminal only lay it out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.contracts import Comparison, Count, FinetuneResult, PreparedData, Score, StepRecord, TokenizedSplit
from tasks.reporting import wording

_LIBRARIES = ("tuneflow", "prefect", "mlflow", "torch", "transformers", "peft", "deepspeed", "datasets", "pyarrow", "pandas")
_ESSENTIALS = ("name", "base_model.uri", "data.source", "data.task", "method.kind", "evaluation.metric", "release.target.kind")


@dataclass(frozen=True)
class Tile:
    """One number to see at a glance; `tone` is good, bad, warn or plain."""

    label: str
    value: str
    note: str
    tone: str = "plain"


@dataclass(frozen=True)
class Link:
    """One value of the lineage: what it is, its hash, and whether it names a value above it."""

    label: str
    sha256: str
    parent: str
    holds: bool | None


@dataclass(frozen=True)
class Reason:
    """Why something was chosen; `choice` is what stands before the colon, "" where nothing does."""

    choice: str
    why: str


def deciding(result: FinetuneResult) -> Comparison | None:
    """The comparison with the base that the verdict rests on; None where it was not measured.

    Its metric is what the evaluation step was asked for, else loss; its benchmark is the first.
    """
    found = [c for c in result.evaluation.comparisons if c.against == "base"]
    if not found:
        return None
    asked = _asked_metric(result)
    first = [c for c in found if c.benchmark == found[0].benchmark]
    return next((c for c in first if c.metric == asked), None if asked else first[0])


def _asked_metric(result: FinetuneResult) -> str:
    """The deciding metric, as the evaluation step's inputs name it; "" where no step says so."""
    for record in result.steps:
        for path, value in record.inputs.items():
            if record.step.startswith(("evaluate", "assess", "judge")) and path.rpartition(".")[2] == "metric":
                return str(value)
    return ""


def outcome(result: FinetuneResult) -> str:
    """Released, Rolled back or Rejected."""
    if result.status == "rejected":
        return "Rejected"
    deployment = result.release.deployment if result.release else None
    return "Rolled back" if deployment and deployment.status == "rolled_back" else "Released"


def tone(result: FinetuneResult) -> str:
    """good, warn (not settled, or rolled back) or bad."""
    if outcome(result) == "Released":
        return "good"
    return "warn" if outcome(result) == "Rolled back" or result.evaluation.verdict.status == "inconclusive" else "bad"


def headline(result: FinetuneResult) -> str:
    """The verdict in one sentence, with the numbers it rests on."""
    claim, evidence, more = verdict_in_words(result)
    numbers = f" ({evidence})" if evidence else ""
    end = "" if claim.endswith((".", "!", "?")) else "."
    return one_line(f"{outcome(result)}: {claim}{numbers}{end} {more}")


def verdict_in_words(result: FinetuneResult) -> tuple[str, str, str]:
    """(what is so, the numbers that show it, what else matters); all but the first may be ""."""
    comparison = deciding(result)
    base = wording.score_of(result.evaluation.scores, "base", comparison)
    tuned = wording.score_of(result.evaluation.scores, "tuned", comparison)
    if comparison is None or base is None or tuned is None:
        reasons = (*result.rejected_reasons, *result.evaluation.verdict.reasons, "Nothing was measured.")
        return f"{result.name}. {reasons[0]}", "", ""
    metric = comparison.metric
    change = f"{wording.value(base.value, metric)} → {wording.value(tuned.value, metric)}"
    numbers = f"{wording.name(metric).lower()} {change} on {wording.name(comparison.benchmark).lower()}"
    more = "" if result.status == "released" else _other_reason(result, comparison)
    claim = f"{result.name} {_says(comparison)} {result.base.uri}: {numbers}"
    return claim, wording.paired(comparison, result.evaluation), more


def _says(comparison: Comparison) -> str:
    return {
        "better": "beats",
        "worse": "is worse than",
        "equivalent": "is no better than",
        "not enough data": "is not shown to beat",
    }[comparison.verdict]


def _other_reason(result: FinetuneResult, comparison: Comparison) -> str:
    """Why a model that beats its base was rejected all the same."""
    if comparison.verdict != "better":
        return f"About {wording.some(comparison.enough, 'item')} would settle it." if comparison.enough else ""
    reasons = [r for r in result.rejected_reasons if r not in result.evaluation.verdict.reasons[:1]]
    return f"But: {reasons[0]}" if reasons else ""


def one_line(text: str) -> str:
    """`text` with every run of white space as one space."""
    return " ".join(text.split())


def tiles(result: FinetuneResult) -> list[Tile]:
    """The numbers to see first."""
    ledger, tokenized, report = result.data.ledger, result.data.tokenized, result.evaluation
    gone = sum(c.rows for c in ledger.dropped)
    made = f", {wording.count(ledger.synthetic)} synthetic" if ledger.synthetic else ""
    parts = (tokenized.train, tokenized.validation, tokenized.test)
    learned = sum(part.supervised_tokens for part in parts)
    return [
        _verdict_tile(result),
        _score_tile(result),
        Tile(
            "Rows kept", f"{wording.count(ledger.kept)} of {wording.count(ledger.rows_in)}",
            f"{wording.count(gone)} dropped{made}, quality {result.data.validation.quality:.2f}",
        ),
        Tile(
            "Tokens", wording.count(sum(part.tokens for part in parts)),
            f"{wording.count(learned)} learned from; {wording.count(result.model.tokens)} seen in training",
        ),
        Tile(
            "Minutes", wording.minutes(result.seconds),
            f"training {wording.minutes(result.model.seconds)}, evaluation {wording.minutes(report.seconds)}; "
            f"{cache_line(result.steps)}",
        ),
        _cost_tile(result),
    ]  # fmt: skip


def _verdict_tile(result: FinetuneResult) -> Tile:
    comparison, status = deciding(result), result.evaluation.verdict.status
    note = wording.paired(comparison, result.evaluation) if comparison else "the deciding metric was not measured"
    return Tile("Verdict", {"pass": "Pass", "fail": "Fail"}.get(status, "Not settled"), note, tone(result))


def _score_tile(result: FinetuneResult) -> Tile:
    comparison = deciding(result)
    base = wording.score_of(result.evaluation.scores, "base", comparison)
    tuned = wording.score_of(result.evaluation.scores, "tuned", comparison)
    if comparison is None or base is None or tuned is None:
        return Tile("Base → tuned", "not measured", "no comparison with the base")
    metric = comparison.metric
    spans = " → ".join(wording.interval(s.low, s.high, metric).replace(" to ", "–") for s in (base, tuned))
    return Tile(
        f"{wording.name(metric)}, base → tuned",
        f"{wording.value(base.value, metric)} → {wording.value(tuned.value, metric)}",
        f"{wording.confidence(result.evaluation)} intervals {spans}; "
        f"{'higher' if tuned.higher_is_better else 'lower'} is better",
    )


def _cost_tile(result: FinetuneResult) -> Tile:
    forecast = result.model.forecast
    priced = forecast.actual_cost_usd or forecast.predicted_cost_usd
    note = f"forecast {wording.usd(forecast.predicted_cost_usd)}" if priced else "no price per device hour was given"
    return Tile("Training cost", wording.usd(forecast.actual_cost_usd), note)


def cache_line(steps: Sequence[StepRecord]) -> str:
    """How many steps came from the cache."""
    total, cached = len(steps), sum(step.cached for step in steps)
    if total and total == cached:
        return f"all {total} steps came from the cache"
    return f"{cached} of {total} steps came from the cache"


def flat(tree: object, prefix: str = "") -> dict[str, object]:
    """A nested request as dotted paths; a list of plain values stays one value."""
    pairs: list[tuple[str, object]]
    if isinstance(tree, Mapping) and tree:
        pairs = [(str(key), item) for key, item in tree.items()]
    elif isinstance(tree, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in tree):
        pairs = [(str(at), item) for at, item in enumerate(tree)]
    else:
        return {prefix: tree}
    return {path: leaf for key, item in pairs for path, leaf in flat(item, f"{prefix}.{key}" if prefix else key).items()}


def asked(
    request: Mapping[str, Any], defaults: Mapping[str, Any] | None
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(what was set or matters most, all else), as paths and values.

    Without `defaults` nothing tells a set value from a default: the first list then holds the essentials.
    """
    leaves, usual = flat(request), flat(defaults or {})
    first = [path for path in _ESSENTIALS[:3] if path in leaves]
    first += [path for path in leaves if path.startswith("data.source.")]
    if defaults is None:
        first += [path for path in _ESSENTIALS[3:] if path in leaves]
    else:
        first += [path for path, leaf in leaves.items() if path not in first and (path not in usual or usual[path] != leaf)]
    rest = [path for path in leaves if path not in first]
    return [(path, plain(leaves[path])) for path in first], [(path, plain(leaves[path])) for path in rest]


def plain(value: object) -> str:
    """A setting as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return "none" if value is None or value in ("", {}) else str(value)


def reason(sentence: str) -> Reason:
    """A sentence such as `bf16: the GPU has bf16 units` as choice and why."""
    head, colon, tail = sentence.partition(": ")
    return Reason(head, tail) if colon and len(head) <= 40 and ". " not in head else Reason("", sentence)


def decisions(result: FinetuneResult) -> list[tuple[str, list[Reason]]]:
    """Every automatic choice with its sentence, in the order of the pipeline."""
    groups: list[tuple[str, Sequence[str]]] = [
        *_decided_on(result.data),
        ("Search", result.search.reasons if result.search else ()),
        ("Plan", result.plan.reasons),
        ("Training", _training_reasons(result)),
        ("Verdict", result.evaluation.verdict.reasons),
        ("Release", [r for r in result.rejected_reasons if r not in result.evaluation.verdict.reasons]),
    ]
    return _explained(groups)


def data_decisions(data: PreparedData) -> list[tuple[str, list[Reason]]]:
    """Every automatic choice about the data with its sentence."""
    return _explained(_decided_on(data))


def _decided_on(data: PreparedData) -> list[tuple[str, Sequence[str]]]:
    return [
        ("Mapping", [f"{data.raw.task}: {data.raw.mapping_reason}"]),
        ("Splits", data.splits.reasons),
        ("Tokens", data.tokenized.reasons),
    ]


def _explained(groups: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, list[Reason]]]:
    return [(group, [reason(sentence) for sentence in sentences]) for group, sentences in groups if sentences]


def _training_reasons(result: FinetuneResult) -> list[str]:
    model = result.model
    if model.validation_loss is None:
        kept = f"step {model.best_step} kept: there were no validation rows to choose a step by"
    else:
        kept = f"step {model.best_step} of {model.steps} kept: its validation loss, {model.validation_loss:.4f}, is the lowest"
    share = wording.percent(model.trainable_parameters / model.base.parameters)
    learned = f"{wording.count(model.trainable_parameters)} weights learned, as many as {share} of the base's"
    return [
        kept,
        f"{wording.name(model.method)}: {learned}",
        *([f"resumed: training went on from its checkpoint at step {model.resumed_from}"] if model.resumed_from else []),
        *(f"{wording.name(each.failure)}, step {each.step}: {each.action}; {each.reason}" for each in model.recoveries),
    ]


def forecasts(result: FinetuneResult) -> list[tuple[str, str, str, str]]:
    """(what, forecast, actual, actual / forecast)."""
    f = result.model.forecast
    rows: list[tuple[str, float, float, Callable[[float], str]]] = [
        ("Memory a device", f.predicted_memory_gib, f.actual_memory_gib, lambda gib: f"{gib:.2f} GiB"),
        ("Training time", f.predicted_hours, f.actual_hours, lambda hours: wording.duration(3600 * hours)),
        ("Cost", f.predicted_cost_usd, f.actual_cost_usd, wording.usd),
        ("Energy", f.predicted_energy_kwh, f.actual_energy_kwh, lambda kwh: f"{kwh:.3g} kWh"),
        ("CO2", f.predicted_carbon_kg, f.actual_carbon_kg, lambda kg: f"{kg:.3g} kg"),
    ]
    rows = [row for row in rows if row[1] or row[0] not in ("Energy", "CO2")]
    return [(what, show(p), show(a), f"{a / p:.2f}×" if p else "–") for what, p, a, show in rows]


def splits(data: PreparedData) -> list[dict[str, Any]]:
    """One row a split: rows, sequences, tokens and what was lost."""
    found = []
    for name in ("train", "validation", "test"):
        part: TokenizedSplit = getattr(data.tokenized, name)
        rows = getattr(data.splits, name).rows
        found.append({"name": name, "rows": rows, "part": part, "dropped": reasons(part.dropped)})
    return found


def reasons(counts: Sequence[Count]) -> str:
    """`too long 3, empty 1`, or none."""
    return ", ".join(f"{wording.name(c.reason)} {wording.count(c.rows)}" for c in counts) or "none"


def best(scores: Sequence[Score], score: Score) -> bool:
    """Whether no other model has a better value in the same metric."""
    same = [s.value for s in scores if (s.benchmark, s.metric) == (score.benchmark, score.metric)]
    return score.value == (max(same) if score.higher_is_better else min(same))


def lineage(result: FinetuneResult) -> list[Link]:
    """The chain of hashes, and whether each value names one above it."""
    model = result.model
    return _linked(
        [
            ("Request", result.request_sha256, None),
            *_data_hashes(result.data),
            ("Base model", result.base.sha256, None),
            ("Tuned model", model.sha256, model.data_sha256),
            ("Evaluation of", result.evaluation.model_sha256, result.evaluation.model_sha256),
            *[(f"Export {e.format}", e.sha256, e.model_sha256) for e in (result.release.exports if result.release else ())],
        ]
    )


def data_lineage(data: PreparedData) -> list[Link]:
    """The part of the chain that ends with the tokens."""
    return _linked(_data_hashes(data))


def _data_hashes(data: PreparedData) -> list[tuple[str, str, str | None]]:
    return [
        *[(f"File {file.address}", file.sha256, None) for file in data.raw.files],
        ("Raw rows", data.raw.sha256, None),
        ("Clean rows", data.clean.sha256, data.clean.parent_sha256),
        ("Splits", data.splits.sha256, data.splits.parent_sha256),
        ("Tokens", data.tokenized.sha256, data.tokenized.parent_sha256),
        ("Chat template", data.tokenized.template_sha256, None),
        ("Manifest", data.manifest.sha256, None),
    ]


def _linked(steps: Sequence[tuple[str, str, str | None]]) -> list[Link]:
    """Values from the first on: (what it is, its hash, its parent's hash or None where it has none)."""
    seen: dict[str, str] = {}
    links = []
    for label, sha256, parent in steps:
        links.append(Link(label, sha256, seen.get(parent or "", parent or ""), None if parent is None else parent in seen))
        seen.setdefault(sha256, label)
    return links


def model_place(result: FinetuneResult) -> str:
    """Where the released model lies, or the weights that were not released."""
    if result.release is None:
        return f"not released; the weights are in {result.model.uri}"
    if result.release.deployment:
        return result.release.deployment.endpoint
    return result.release.exports[0].uri if result.release.exports else result.model.uri


def environment() -> dict[str, str]:
    """Versions of the main libraries, of Python and of the operating system."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": platform.platform(terse=True), "processor": platform.machine()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def settings(result: FinetuneResult) -> list[tuple[str, str]]:
    """Every setting of the training, plan and seed included."""
    plan = result.model.plan  # a failure that was got over may have changed what was planned
    chosen = {
        "seed": result.model.seed,
        "plan.tensor_parallel": plan.tensor_parallel,
        "plan.zero_stage": plan.zero_stage,
        "plan.micro_batch": plan.micro_batch,
        "plan.accumulation": plan.accumulation,
        "plan.precision": plan.precision,
        "plan.activation_checkpointing": plan.activation_checkpointing,
    }
    return [(path, plain(value)) for path, value in (flat(result.model.settings) | chosen).items() if path]


def right(answer: str, reference: str) -> bool | None:
    """Whether an answer equals the reference but for case and white space; None where either was cut."""
    if answer.endswith("…") or reference.endswith("…"):
        return None
    return one_line(answer).casefold() == one_line(reference).casefold()
