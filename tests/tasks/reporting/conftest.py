"""Results as the pipeline makes them, written out by hand."""

import hashlib
import math
from typing import Any

import pytest

from tasks.contracts import (
    Check,
    CleanDataset,
    Comparison,
    Count,
    DatasetManifest,
    DatasetSplits,
    Deployment,
    EvaluationReport,
    Example,
    ExportedModel,
    FileRecord,
    FinetuneResult,
    Forecast,
    HardwarePlan,
    Ledger,
    ModelRef,
    Parity,
    PreparedData,
    QualityComponent,
    RawDataset,
    ReleaseResult,
    Score,
    Shard,
    SourceFile,
    Speed,
    SplitPart,
    StepRecord,
    TokenizedDataset,
    TokenizedSplit,
    TrainedModel,
    ValidationReport,
    Verdict,
)

HOSTILE = '<script>alert("x")</script><img src=https://evil.example/a.png onerror=alert(1)>'
LONG_WORD = "donaudampfschifffahrt" * 40
CHINESE = "今天天气怎么样？🦊 émoji & Ünïcode"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _raw() -> RawDataset:
    return RawDataset(
        name="support-bot",
        uri="cache/load/1",
        sha256=sha("raw"),
        format="jsonl",
        shape="columns",
        task="chat",
        rows=3000,
        bytes=1_843_201,
        columns=("instruction", "input", "output", "id"),
        mapping={"question": "instruction", "context": "input", "answer": "output"},
        mapping_confidence=0.94,
        mapping_reason="The columns instruction, input and output are those of the Alpaca form.",
        files=(
            SourceFile(address="data/tickets/2026-01.jsonl", format="jsonl", sha256=sha("a"), bytes=1_200_000, rows=2000),
            SourceFile(
                address="data/tickets/2026-02.jsonl", format="jsonl", sha256=sha("b"), bytes=643_201, rows=1000, weight=2
            ),
        ),
        shards=(Shard(name="part-00000-00000.parquet", rows=3000, sha256=sha("part")),),
    )


def _validation() -> ValidationReport:
    return ValidationReport(
        dataset_sha256=sha("raw"),
        quality=0.9312,
        repairs=("repair_encoding", "strip_whitespace"),
        checks=(
            Check(name="enough_rows", passed=True, severity="fatal", expected="at least 10 rows", found="2,931 usable rows"),
            Check(
                name="answers_present",
                passed=False,
                severity="fixable",
                expected="an answer in every row",
                found="69 rows without an answer",
                rows=69,
                examples=("line 17: What’s the opposite of hot?", "line 1204: Add 2 and 3."),
            ),
            Check(
                name="encoding",
                passed=False,
                severity="fixable",
                expected="well-formed text",
                found="mis-decoded text in 41 rows",
                rows=41,
                examples=("itâ€™s fine",),
            ),
            Check(name="language", passed=True, severity="info", expected="one main language", found="English in 99% of rows"),
        ),
        components=(
            QualityComponent(name="complete", share=0.977, weight=3),
            QualityComponent(name="unique", share=0.921, weight=2),
            QualityComponent(name="well_encoded", share=0.986, weight=1),
            QualityComponent(name="right_length", share=0.74, weight=1),
        ),
    )


def _ledger() -> Ledger:
    return Ledger(
        rows_in=3000,
        kept=2740,
        synthetic=0,
        dropped=(
            Count(reason="exact_duplicate", rows=118),
            Count(reason="near_duplicate", rows=64),
            Count(reason="no_answer", rows=69),
            Count(reason="empty", rows=9),
        ),
        repaired=(Count(reason="repair_encoding", rows=41), Count(reason="strip_whitespace", rows=203)),
    )


def _split(name: str, sequences: int, tokens: int, learned: int, lost: int = 0) -> TokenizedSplit:
    return TokenizedSplit(
        uri=f"cache/tokenize/{name}.parquet",
        sha256=sha(f"tok-{name}"),
        sequences=sequences,
        tokens=tokens,
        supervised_tokens=learned,
        truncated_rows=min(lost, 12),
        truncated_tokens=lost * 37,
        longest=248,
    )


def _manifest() -> DatasetManifest:
    return DatasetManifest(
        sha256=sha("manifest"), config={"truncation": "cut"}, seed=0, sources=({"sha256": sha("a"), "rows": 2000},),
        versions={"python": "3.11.9"}, tokenizer_sha256=sha("tokenizer"), template_sha256=sha("template"),
        shards={"raw": (sha("part"),)}, tokens={"train": sha("tok-train")},
    )  # fmt: skip


def _data(ledger: Ledger) -> PreparedData:
    parts = {
        name: SplitPart(uri=f"cache/split/{name}.parquet", sha256=sha(name), rows=rows)
        for name, rows in (("train", 2329), ("validation", 137), ("test", 274))
    }
    return PreparedData(
        manifest=_manifest(),
        raw=_raw(),
        validation=_validation(),
        clean=CleanDataset(
            name="support-bot",
            uri="cache/clean/1",
            sha256=sha("clean"),
            parent_sha256=sha("raw"),
            task="chat",
            ledger=ledger,
            quarantine_uri="cache/clean/1/quarantine",
            shards=(Shard(name="part-00000-00000.parquet", rows=2740, sha256=sha("part")),),
        ),
        splits=DatasetSplits(
            name="support-bot",
            sha256=sha("splits"),
            parent_sha256=sha("clean"),
            task="chat",
            groups=2611,
            **parts,
            reasons=(
                "10% test, 5% validation: as asked",
                "A row's split follows the hash of its prompt, so that added rows move none.",
            ),
        ),
        tokenized=TokenizedDataset(
            name="support-bot",
            sha256=sha("tokens"),
            parent_sha256=sha("splits"),
            task="chat",
            train=_split("train", 2329, 148_221, 31_870, 12),
            validation=_split("validation", 137, 8_712, 1_866),
            test=_split("test", 274, 17_409, 3_761),
            packing_efficiency=0.871,
            tokenizer_uri="cache/tokenize/tokenizer",
            tokenizer_sha256=sha("tokenizer"),
            template_sha256=sha("template"),
            template_source="the model's own",
            golden_uri="cache/tokenize/golden.json",
            max_length=256,
            reasons=("256 tokens: the model holds no more", "template: the model brings its own chat template"),
        ),
    )


BASE = ModelRef(
    uri="models/quickstart-base",
    location="/srv/ws/models/quickstart-base",
    sha256=sha("base"),
    parameters=2_361_600,
    architecture="LlamaForCausalLM",
    max_positions=512,
    vocabulary=2048,
    bytes=9_460_000,
    hidden_size=192,
    layers=4,
)

PLAN = HardwarePlan(
    accelerator="cpu",
    device_name="AMD EPYC 9R14",
    devices=2,
    backend="gloo",
    threads=1,
    zero_stage=2,
    micro_batch=8,
    accumulation=1,
    precision="fp32",
    activation_checkpointing=False,
    memory_gib=0.61,
    hours=0.021,
    cost_usd=0.0042,
    energy_kwh=0.0027,
    reasons=(
        "2 device(s): as asked",
        "fp32: AMD EPYC 9R14 has bf16 units, but small models gain little and lose digits",
        "ZeRO 2: gradients and optimizer states are divided; the weights fit on each device",
        "micro-batch 8: forecast 0.61 GiB of 14.2 GiB usable, sequences of up to 248 tokens",
        "gloo: the transport of CPU processes",
        "learning rate 2e-4: usual for adapters, whose new weights start at nothing",
    ),
)


def _model(validation_loss: float | None = 0.8713) -> TrainedModel:
    return TrainedModel(
        uri="cache/train/1/model",
        sha256=sha("model"),
        base=BASE,
        data_sha256=sha("tokens"),
        tokenizer_uri="cache/tokenize/tokenizer",
        adapter=True,
        method="lora",
        plan=PLAN,
        seed=7,
        steps=292,
        tokens=296_442,
        trainable_parameters=301_056,
        best_step=261,
        settings={"method": {"kind": "lora", "rank": 16, "alpha": 32, "targets": "all-linear"}, "training": {"epochs": 2.0}},
        train_loss=0.8127,
        validation_loss=validation_loss,
        seconds=81.4,
        run_id="4f1c",
        resumed_from=120,
        forecast=Forecast(
            predicted_memory_gib=0.61,
            actual_memory_gib=0.58,
            predicted_hours=0.021,
            actual_hours=0.0226,
            predicted_cost_usd=0.0042,
            actual_cost_usd=0.0045,
        ),
        history_uri="cache/train/1/history.jsonl",
    )


def _scores(tuned_loss: float, tuned_match: float) -> tuple[Score, ...]:
    rows = (
        ("base", "loss", 3.2101, 0.11, False, 274),
        ("tuned", "loss", tuned_loss, 0.06, False, 274),
        ("base", "exact_match", 0.035, 0.025, True, 200),
        ("tuned", "exact_match", tuned_match, 0.066, True, 200),
    )
    return tuple(
        Score(model=role, benchmark="held_out", metric=metric, value=v, low=v - d, high=v + d, n=n, higher_is_better=up)
        for role, metric, v, d, up, n in rows
    )


EXAMPLES = (
    Example(
        prompt="What’s the opposite of hot?",
        reference="The opposite of hot is cold.",
        base="the the of the",
        tuned="The opposite of hot is cold.",
    ),
    Example(prompt="Add 7 and 5.", reference="The sum of 7 and 5 is 12.", base="", tuned="The sum of 7 and 5 is 11."),
    Example(
        prompt="Read the whole story before you answer. "
        + "Mira lives in Aldon and sells red apples. " * 14
        + "Where does Mira live?",
        reference="Mira lives in Aldon.",
        base="Mira sells",
        tuned="Mira lives in Aldon.",
    ),
)


def _evaluation(passed: bool) -> EvaluationReport:
    loss = Comparison(
        against="base",
        benchmark="held_out",
        metric="loss",
        difference=2.3178,
        low=2.2214,
        high=2.4107,
        p_value=0.0000999,
        n=274,
        verdict="better",
    )
    match = Comparison(
        against="base",
        benchmark="held_out",
        metric="exact_match",
        difference=0.58,
        low=0.51,
        high=0.645,
        p_value=0.0001,
        n=200,
        verdict="better",
    )
    if not passed:
        loss = loss.model_copy(
            update={
                "difference": 0.0211,
                "low": -0.014,
                "high": 0.0563,
                "p_value": 0.2431,
                "verdict": "not enough data",
                "enough": 812,
            }
        )
        match = match.model_copy(
            update={"difference": -0.01, "low": -0.035, "high": 0.015, "p_value": 0.62, "verdict": "not enough data"}
        )
    reason = (
        "On held_out the tuned model has 0.8923 nats per token of the right answers, the base 3.2101: 2.3178 better "
        "(0.95 interval 2.2214 to 2.4107, positive is better; p = 0.0001; 274 items). The whole interval lies above "
        "the margin of 0: it is better."
        if passed
        else "On held_out the tuned model has 3.1890 nats, the base 3.2101: 274 items do not settle whether it is better."
    )
    return EvaluationReport(
        model_sha256=sha("model"),
        data_sha256=sha("tokens"),
        scores=_scores(0.8923, 0.615) if passed else _scores(3.189, 0.025),
        comparisons=(loss, match),
        speed=(
            Speed(
                model="base",
                prompt_tokens=32,
                output_tokens=64,
                first_token_ms_p50=9.1,
                first_token_ms_p95=12.4,
                tokens_per_second=148.2,
                peak_memory_gib=0.31,
            ),
            Speed(
                model="tuned",
                prompt_tokens=32,
                output_tokens=64,
                first_token_ms_p50=11.7,
                first_token_ms_p95=16.0,
                tokens_per_second=112.9,
                peak_memory_gib=0.33,
            ),
        ),
        verdict=Verdict(status="pass" if passed else "inconclusive", reasons=(reason,)),
        advice=("Validation loss still fell at the last step (0.8801 to 0.8713 at step 292): more steps may help.",),
        examples=EXAMPLES,
        items_uri="cache/evaluate/1/items.parquet",
        confidence=0.95,
        seconds=38.2,
    )


def _release() -> ReleaseResult:
    export = ExportedModel(
        uri="cache/export-safetensors/1/model",
        sha256=sha("export"),
        model_sha256=sha("model"),
        format="safetensors",
        bytes=9_471_233,
        files=(
            FileRecord(path="config.json", sha256=sha("config"), bytes=812),
            FileRecord(path="model.safetensors", sha256=sha("st"), bytes=9_450_000),
            FileRecord(path="tokenizer.json", sha256=sha("tj"), bytes=20_421),
        ),
        parity=Parity(prompts=20, max_difference=3.1e-6, tolerance=1e-4, same_tokens=True, passed=True),
    )
    return ReleaseResult(
        exports=(export,),
        registered="models:/support-bot/3",
        alias="champion",
        deployment=Deployment(
            target="none", endpoint="/srv/ws/models/support-bot", version="3", previous_version="2", status="live"
        ),
    )


def _steps(all_cached: bool = False) -> tuple[StepRecord, ...]:
    rows = (
        ("load", 0.4, True),
        ("validate", 0.9, True),
        ("clean", 1.7, True),
        ("split", 0.2, True),
        ("tokenize", 2.6, False),
        ("plan", 1.1, False),
        ("train", 84.9, False),
        ("evaluate", 41.3, False),
        ("export-safetensors", 9.8, False),
    )
    hit, miss = "nothing it depends on changed; every file still has its hash", "changed: spec.max_length 128 -> 256"
    return tuple(
        StepRecord(
            step=step,
            key=sha(step),
            cached=cached or all_cached,
            reason=hit if cached or all_cached else miss,
            seconds=seconds,
            inputs={"spec.metric": "loss"} if step == "evaluate" else {},
        )
        for step, seconds, cached in rows
    )


def result(passed: bool = True, **changes: Any) -> FinetuneResult:
    evaluation = _evaluation(passed)
    fields: dict[str, Any] = {
        "name": "support-bot",
        "status": "released" if passed else "rejected",
        "request_sha256": sha("request"),
        "data": _data(_ledger()),
        "base": BASE,
        "plan": PLAN,
        "model": _model(),
        "evaluation": evaluation,
        "release": _release() if passed else None,
        "rejected_reasons": () if passed else evaluation.verdict.reasons,
        "steps": _steps(),
        "report_uri": "/srv/ws/runs/support-bot/report.html",
        "run_id": "9c2e7a",
        "seconds": 151.3,
    }
    return FinetuneResult(**(fields | changes))


@pytest.fixture
def released() -> FinetuneResult:
    return result()


@pytest.fixture
def rejected() -> FinetuneResult:
    return result(passed=False)


@pytest.fixture
def cached() -> FinetuneResult:
    return result(steps=_steps(all_cached=True))


@pytest.fixture
def hostile() -> FinetuneResult:
    """Text that attacks the page, words without end, no validation rows and an empty ledger."""
    normal = result(passed=False)
    raw = normal.data.raw.model_copy(
        update={"mapping_reason": HOSTILE, "columns": (HOSTILE, LONG_WORD, CHINESE), "mapping": {"a": HOSTILE}}
    )
    check = Check(name=HOSTILE, passed=False, severity="fatal", expected=CHINESE, found=LONG_WORD, examples=(HOSTILE, CHINESE))
    validation = normal.data.validation.model_copy(update={"checks": (check,), "components": ()})
    empty = CleanDataset(**(dict(normal.data.clean) | {"ledger": Ledger(rows_in=0, kept=0)}))
    part = SplitPart(uri="x", sha256=sha("x"), rows=0)
    splits = normal.data.splits.model_copy(update={"train": part, "validation": part, "test": part, "reasons": (HOSTILE,)})
    none = _split("none", 0, 0, 0)
    tokenized = normal.data.tokenized.model_copy(update={"train": none, "validation": none, "test": none})
    data = normal.data.model_copy(
        update={"raw": raw, "validation": validation, "clean": empty, "splits": splits, "tokenized": tokenized}
    )
    evaluation = normal.evaluation.model_copy(
        update={
            "examples": (
                Example(prompt=HOSTILE, reference=CHINESE, base=LONG_WORD, tuned=f"| **{HOSTILE}** | $x$ {{{{ 7*7 }}}}"),
            ),
            "verdict": Verdict(status="fail", reasons=(HOSTILE,)),
            "advice": (HOSTILE + LONG_WORD,),
            "speed": (),
            "scores": tuple(s.model_copy(update={"benchmark": "<b>$x$"}) for s in normal.evaluation.scores),
            "comparisons": tuple(c.model_copy(update={"benchmark": "<b>$x$"}) for c in normal.evaluation.comparisons),
        }
    )
    steps = (StepRecord(step=HOSTILE, key="k", cached=False, reason=HOSTILE, seconds=0.0),)
    return result(
        passed=False,
        name=HOSTILE,
        data=data,
        model=_model(None),
        evaluation=evaluation,
        steps=steps,
        rejected_reasons=(HOSTILE, CHINESE),
        report_uri=HOSTILE,
    )


@pytest.fixture
def request_dict() -> dict[str, Any]:
    return {
        "name": "support-bot",
        "base_model": {"uri": "models/quickstart-base", "revision": ""},
        "data": {
            "source": "data/tickets/*.jsonl",
            "task": "auto",
            "cleaning": {"near_duplicates": 0.8, "exact_duplicates": True},
        },
        "method": {"kind": "lora", "rank": 16},
        "training": {"epochs": 2.0, "max_length": 256, "batch_size": 16},
        "evaluation": {"metric": "loss", "benchmarks": [{"kind": "held_out", "items": 0}]},
        "release": {"target": {"kind": "none"}},
        "seed": 7,
    }


@pytest.fixture
def defaults() -> dict[str, Any]:
    return {
        "name": "x",
        "base_model": {"uri": "x", "revision": ""},
        "data": {"source": "x", "task": "auto", "cleaning": {"near_duplicates": 0.85, "exact_duplicates": True}},
        "method": {"kind": "lora", "rank": 16},
        "training": {"epochs": 2.0, "max_length": 1024, "batch_size": 16},
        "evaluation": {"metric": "loss", "benchmarks": [{"kind": "held_out", "items": 0}]},
        "release": {"target": {"kind": "none"}},
        "seed": 0,
    }


@pytest.fixture
def history() -> list[dict[str, float]]:
    """A decaying loss in 97 points of three steps each, validated every 29 steps; lowest at step 261."""
    found: list[dict[str, float]] = []
    for step in range(1, 293):
        if step % 3 == 1:
            loss = 0.8 + 2.5 * math.exp(-step / 45) + 0.05 * math.sin(step * 1.7)
            rate = 2e-4 * min(1.0, step / 15) * (0.55 + 0.45 * math.cos(math.pi * step / 292))
            found.append({"step": step, "tokens": 1015 * step, "loss": loss, "learning_rate": rate, "seconds": 0.28 * step})
        if step % 29 == 0:
            loss = 0.8713 if step == 261 else 0.87 + 2.3 * math.exp(-step / 48) + 0.00003 * max(0, step - 200)
            found.append({"step": step, "validation_loss": loss})
    return found


@pytest.fixture
def quarantine() -> list[dict[str, Any]]:
    turn = {"role": "user", "content": "Add 2 and 3."}
    return [
        {"row": 16, "file": "2026-01.jsonl", "line": 17, "reason": "no_answer", "messages": [turn]},
        {"row": 90, "file": "2026-01.jsonl", "line": 91, "reason": "empty", "messages": []},
        {"row": 91, "file": HOSTILE, "line": 92, "reason": HOSTILE, "messages": [{"role": "a", "content": HOSTILE * 9}]},
    ]
