"""What is wrong with a raw dataset: checks shard by shard, facts about the whole, and a quality score of named parts."""

import shutil
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

from tasks.contracts import Check, QualityComponent, RawDataset, ValidationReport
from tasks.data.cleaning import escaped_sources
from tasks.data.expectations import Rule, passes
from tasks.data.findings import DROPS, EXAMPLES, ROW_CHECKS, CheckJob, RuleJob, Totals, check_rules, check_shard, rules_for
from tasks.data.keys import repeats
from tasks.data.mending import makes
from tasks.data.running import Run, Told, each, in_turn, silent
from tasks.data.shards import read_shard
from tasks.data.signals import WIDEST_IMBALANCE, imbalance
from tasks.data.spec import CleaningSpec, ValidationSpec
from tasks.data.traits import traits_for
from tasks.encryption import arrays
from tasks.errors import DatasetError

_WIDEST_SPREAD = 50.0  # longest hundredth of the answers over their median, in characters
_MUCH_MISSING = 0.1
_ONE_LANGUAGE = 0.9
_MANY_SHARDS = 64
_ALL_EMPTY = "rows whose answer is empty in every case"


def validate(
    raw: RawDataset,
    validation: ValidationSpec,
    cleaning: CleaningSpec,
    rows: Path,
    out: Path,
    run: Run = in_turn,
    progress: Told = silent,
) -> ValidationReport:
    """Check every row and the whole.

    Quality is the weighted mean of the components' shares of rows in order: sum(weight x share) / sum(weight). Weights:
    answered 3, unique 2, and 1 each for encoding, roles and, where rows have prompts, prompted and not_echoed.

    Args:
        raw: what was loaded.
        validation: when the data are too poor.
        cleaning: which findings will be mended.
        rows: folder that holds the raw rows/.
        out: folder for what is needed meanwhile; what an earlier process finished there is not done again.
        run: in one process or in several.
        progress: told shards done and shards in all.

    Raises:
        StageError: a check could not be computed.
    """
    work = out / "work"
    starts = accumulate((shard.rows for shard in raw.shards), initial=0)
    escaped = escaped_sources(raw)
    jobs = [
        CheckJob(shard.name, start, rows / "rows" / shard.name, work, raw.task, cleaning, escaped)
        for shard, start in zip(raw.shards, starts, strict=False)
    ]
    facts = Totals()
    for found in each(run, check_shard, jobs, work / "marks", progress):
        facts.add(found)
    # To load Great Expectations takes as long as some thirty shards do: for fewer, this process is enough.
    several = run if len(jobs) >= _MANY_SHARDS else in_turn
    for found in each(several, check_rules, [RuleJob(job) for job in jobs], work / "rule-marks"):
        facts.add_broken(found)
    _add_repeated(facts, jobs)
    shutil.rmtree(work)
    components = _components(facts, raw.task)
    quality = sum(c.share * c.weight for c in components) / sum(c.weight for c in components)
    checks = [
        *_row_checks(facts, raw.task, cleaning, bool(escaped)),
        *_global_checks(facts, quality, raw.task, validation, cleaning),
    ]
    broken = {check.name for check in checks if not check.passed and check.severity == "fixable"}
    mending = {rule.name: repair for rule, _, repair in ROW_CHECKS if repair} | {"no_exact_duplicates": "exact_duplicates"}
    return ValidationReport(
        dataset_sha256=raw.sha256,
        checks=tuple(checks),
        quality=quality,
        components=tuple(components),
        repairs=tuple(repair for name, repair in mending.items() if name in broken),
    )


def _add_repeated(facts: Totals, jobs: Sequence[CheckJob]) -> None:
    """Count the rows that repeat an earlier one, and name the first of them."""
    repeated = repeats([job.keys for job in jobs])[:, 0]
    facts.repeated = len(repeated)
    for job in jobs:
        usable = arrays.load(job.usable)
        here = repeated[(repeated >= job.start) & (repeated < job.start + len(usable))] - job.start
        facts.repeated_usable += int(usable[here].sum())
        examples = facts.examples.setdefault("no_exact_duplicates", [])
        if len(here) and len(examples) < EXAMPLES:
            places = read_shard(job.path, ["file", "line"]).take(here[: EXAMPLES - len(examples)])
            examples += [f"{row['file']} line {row['line']}" for row in places.to_pylist()]


def raise_if_failed(report: ValidationReport) -> None:
    """Stop where a fatal check failed.

    Raises:
        DatasetError: naming every fatal finding and example rows.
    """
    fatal = [check for check in report.checks if check.severity == "fatal" and not check.passed]
    if fatal:
        lines = [f"- {c.name}: {c.found}; expected {c.expected}{_such_as(c.examples)}" for c in fatal]
        raise DatasetError("The data cannot be trained on:\n" + "\n".join(lines))


def _such_as(examples: Sequence[str]) -> str:
    return f". For example {', '.join(examples)}" if examples else ""


def _components(facts: Totals, task: str) -> list[QualityComponent]:
    counts: list[tuple[str, int, float]] = [
        ("answered", facts.without_answer, 3.0),
        ("unique", facts.repeated, 2.0),
        ("encoding", facts.broken["encoding_right"] + facts.broken["encoding_whole"], 1.0),
        ("roles", facts.broken["roles_known"], 1.0),
    ]
    if task != "text":
        counts += [
            ("prompted", facts.broken["prompt_present"], 1.0),
            ("not_echoed", facts.broken["answer_is_not_prompt"], 1.0),
        ]
    return [
        QualityComponent(name=name, share=max(0.0, 1 - broken / facts.rows), weight=weight) for name, broken, weight in counts
    ]


def _not_asked(repair: str) -> str:
    """Which option of cleaning would make a repair."""
    if repair.startswith("redact_"):
        return "data.cleaning.personal_data is not redact"
    return "data.cleaning.html is not strip" if repair == "strip_html" else f"data.cleaning.{repair} is off"


def _row_checks(facts: Totals, task: str, cleaning: CleaningSpec, escaped: bool) -> list[Check]:
    """What breaks a rule, row by row; `escaped` says whether any source's line breaks were written as backslash and n."""
    checks = []
    rules = [(rule.name, expected, repair) for rule, expected, repair in rules_for(task)]
    traits = [(trait.name, trait.expected, trait.repair) for trait in traits_for(task, cleaning)]
    for name, expected, repair in [*rules, *traits]:
        broken = facts.broken[name]
        mended = repair in DROPS or (bool(repair) and makes(cleaning, repair))
        off = "" if mended or not repair else f" ({_not_asked(repair)})"
        if repair == "unescape_newlines" and mended and not escaped:
            mended, off = False, " (few in each file, so taken as meant)"
        checks.append(
            Check(
                name=name,
                passed=broken == 0,
                severity="fixable" if mended else "info",
                expected=expected,
                found=f"{broken:,} of {facts.rows:,} rows otherwise{off}",
                rows=broken,
                examples=tuple(facts.examples.get(name, ())),
            )
        )
    return checks


def _global_checks(facts: Totals, quality: float, task: str, validation: ValidationSpec, cleaning: CleaningSpec) -> list[Check]:
    """Facts about the whole, asserted in one small suite over a frame of one row."""
    import pandas as pd

    statistics = _statistics(facts, quality, cleaning)
    limits: dict[str, Mapping[str, float]] = {
        "usable_rows": {"min_value": validation.minimum_rows},
        "answered_rows": {"min_value": 1},
        "missing_share": {"max_value": validation.maximum_missing},
        "some_missing": {"max_value": _MUCH_MISSING},
        "main_language": {"min_value": _ONE_LANGUAGE},
        "quality": {"min_value": validation.minimum_quality},
        "repeated_rows": {"max_value": 0},
        "length_spread": {"max_value": _WIDEST_SPREAD},
    }
    if task == "classification":
        limits["imbalance"] = {"max_value": WIDEST_IMBALANCE}
    rules = [Rule(name, name, "column_values_to_be_between", limit) for name, limit in limits.items()]
    held = passes(pd.DataFrame([statistics]), rules)
    return [_global_check(name, held[name], statistics, facts, validation, cleaning) for name in limits]


def _statistics(facts: Totals, quality: float, cleaning: CleaningSpec) -> dict[str, float]:
    usable = facts.reasons[""] - (facts.repeated_usable if cleaning.exact_duplicates else 0)
    middle = max(facts.length_at(0.5), 1)
    languages = facts.languages.most_common(1)
    return {
        "usable_rows": usable,
        "answered_rows": facts.rows - facts.without_answer,
        "missing_share": facts.without_answer / facts.rows,
        "quality": quality,
        "repeated_rows": facts.repeated,
        "length_spread": facts.length_at(0.99) / middle,
        "some_missing": facts.without_answer / facts.rows,
        "main_language": languages[0][1] / facts.languages.total() if languages else 1.0,
        "imbalance": imbalance(facts.labels),
    }


def _global_check(
    name: str, held: bool, found: Mapping[str, float], facts: Totals, validation: ValidationSpec, cleaning: CleaningSpec
) -> Check:
    missing = facts.without_answer
    off = "" if cleaning.exact_duplicates else " (data.cleaning.exact_duplicates is off)"
    repeats: Literal["fixable", "info"] = "fixable" if cleaning.exact_duplicates else "info"
    table: dict[str, tuple[str, Literal["info", "fixable", "fatal"], str, str, int]] = {
        "usable_rows": (
            "enough_rows", "fatal", f"at least {validation.minimum_rows} (data.validation.minimum_rows)",
            f"{found[name]:,.0f} usable rows of {facts.rows:,}", 0,
        ),
        "answered_rows": (
            "answers_exist", "fatal", "answers to learn; name their column in data.columns",
            f"{found[name]:,.0f} of {facts.rows:,} rows have an answer" if held else _ALL_EMPTY, missing,
        ),
        "missing_share": (
            "missing_share", "fatal", f"at most {validation.maximum_missing:.0%} (data.validation.maximum_missing)",
            f"{found[name]:.1%} of the rows have no answer", missing,
        ),
        "quality": (
            "quality", "fatal", f"at least {validation.minimum_quality} (data.validation.minimum_quality)",
            f"quality {found[name]:.3f}", 0,
        ),
        "repeated_rows": (
            "no_exact_duplicates", repeats, "no row twice", f"{facts.repeated} repeated rows{off}", facts.repeated,
        ),
        "length_spread": (
            "length_spread", "info", f"longest answers at most {_WIDEST_SPREAD:.0f} times the median",
            f"the 99th percentile of answer lengths is {found[name]:.1f} times the median; they vary by "
            f"{facts.variation():.2f} of their mean (coefficient of variation)", 0,
        ),
        "some_missing": (
            "few_missing", "info", f"answers on all but {_MUCH_MISSING:.0%} of the rows",
            f"{found[name]:.1%} of the rows have no answer", missing,
        ),
        "main_language": (
            "one_language", "info", f"{_ONE_LANGUAGE:.0%} of the texts in one language",
            ", ".join(f"{name} {count / facts.languages.total():.0%}" for name, count in facts.languages.most_common(5)), 0,
        ),
        "imbalance": (
            "label_balance", "info", f"no label {WIDEST_IMBALANCE:.0f} times as often as another",
            f"{len(facts.labels)} labels, the largest {found[name]:.1f} times as often as the rarest", 0,
        ),
    }  # fmt: skip
    shown, severity, expected, what, rows = table[name]
    examples = facts.missing if name in ("answered_rows", "missing_share", "some_missing") else facts.examples.get(shown, [])
    return Check(
        name=shown, passed=held, severity=severity, expected=expected, found=what, rows=rows,
        examples=() if held else tuple(examples),
    )  # fmt: skip
