"""The data stage's steps."""

import os
from pathlib import Path
from typing import Literal

from tasks.contracts import (
    CleanDataset,
    DatasetSplits,
    ModelRef,
    RawDataset,
    SourceFile,
    TokenizedDataset,
    ValidationReport,
)
from tasks.data import checks, cleaning, loading, splitting, tokenizing
from tasks.data.augmenting.augment import augment
from tasks.data.augmenting.job import ParaphraseJob
from tasks.data.clusters import workers
from tasks.data.running import processes_for
from tasks.data.spec import AugmentationSpec, CleaningSpec, DataSpec, SplittingSpec, ValidationSpec
from tasks.data.truncation import Truncation
from tasks.devices import visible_devices
from tasks.steps import StepContext, source_options, step

_ROW_BYTES = 500  # of a usual row, to guess how many there are
_NOMINAL_BATCH = 16  # sequences; the batch for which padding is reported


def _size(files: list[tuple[str, str, int]]) -> int:
    return sum(size for _, _, size in files)


@step("load", version=2, resumable=True)
def load_rows(context: StepContext, name: str, spec: DataSpec, files: list[tuple[str, str, int]]) -> RawDataset:
    """Read every row and map it to a conversation. `files` (address, sha256, bytes) makes the cache key follow the content."""
    options = source_options(spec.access)
    with workers(
        processes_for(len(files) + _size(files) // loading.PART_BYTES, _size(files) // _ROW_BYTES), context.folder
    ) as run:
        raw = loading.load(name, spec, context.folder, context.uri, options, files, run, context.reporter.update)
    context.log_parameters({"shape": raw.shape, "task": raw.task, "format": raw.format, "mapping": raw.mapping_reason})
    context.log_metrics({"rows": raw.rows, "bytes": raw.bytes, "mapping_confidence": raw.mapping_confidence})
    return raw


@step("validate", version=2, resumable=True)
def validate_rows(context: StepContext, raw: RawDataset, spec: ValidationSpec, cleaning_spec: CleaningSpec) -> ValidationReport:
    """Check what was loaded; what cleaning cannot mend stops the run."""
    with workers(processes_for(len(raw.shards), raw.rows), context.folder) as run:
        report = checks.validate(raw, spec, cleaning_spec, context.local(raw.uri), context.folder, run, context.reporter.update)
    checks.raise_if_failed(report)
    context.log_metrics({"quality": report.quality, **{part.name: part.share for part in report.components}})
    return report


@step("clean", version=2, resumable=True)
def clean_rows(context: StepContext, raw: RawDataset, report: ValidationReport, spec: CleaningSpec) -> CleanDataset:
    """Repair and drop what `spec` names, and account for every row."""
    with workers(processes_for(len(raw.shards), raw.rows), context.folder) as run:
        clean = cleaning.clean(raw, spec, context.local(raw.uri), context.folder, context.uri, run, context.reporter.update)
    ledger = clean.ledger
    context.log_metrics({"rows_in": ledger.rows_in, "kept": ledger.kept})
    context.log_metrics({f"dropped.{count.reason}": count.rows for count in ledger.dropped})
    context.log_metrics({f"repaired.{count.reason}": count.rows for count in ledger.repaired})
    return clean


@step("split", version=3, resumable=True)
def split_rows(
    context: StepContext, clean: CleanDataset, files: tuple[SourceFile, ...], spec: SplittingSpec, seed: int
) -> DatasetSplits:
    """Divide rows by their content."""
    weights = [file.weight for file in files]
    with workers(processes_for(len(clean.shards), clean.ledger.kept), context.folder) as run:
        splits = splitting.split(
            clean, spec, weights, context.local(clean.uri), context.folder, context.uri, seed, run, context.reporter.update
        )
    context.log_metrics({"train": splits.train.rows, "validation": splits.validation.rows, "test": splits.test.rows})
    context.log_metrics({f"dropped.{count.reason}": count.rows for count in splits.dropped})
    return splits


@step("augment", version=1, resumable=True)
def augment_rows(
    context: StepContext, splits: DatasetSplits, spec: AugmentationSpec, model: ModelRef | None, seed: int
) -> DatasetSplits:
    """Make training rows from others where there are few; `model` says them in other words, where one is named."""
    files = {name: context.local(getattr(splits, name).uri) for name in ("train", "validation", "test")}

    def rewrite(texts: Path, out: Path) -> None:
        assert model is not None
        _paraphrase(context, model, texts, out)

    with workers(processes_for(len(splits.train.shards), splits.train.rows), context.folder) as run:
        more = augment(splits, spec, files, context.folder, context.uri, seed, rewrite, run, context.reporter.update)
    context.log_metrics({"train": more.train.rows, "synthetic": more.synthetic})
    context.log_metrics({f"not_taken.{count.reason}": count.rows for count in more.not_taken})
    return more


def _paraphrase(context: StepContext, model: ModelRef, texts: Path, out: Path) -> None:
    """Have a child process say texts in other words, on a GPU where one can be seen."""
    device: Literal["cpu", "cuda"] = "cuda" if any(name.startswith("GPU-") for name in visible_devices("cuda")) else "cpu"
    job = ParaphraseJob(
        model=Path(model.location), trust_remote_code=model.trust_remote_code, texts=texts, out=out, device=device,
        threads=len(os.sched_getaffinity(0)),
    )  # fmt: skip
    context.run_worker("tasks.data.augmenting.worker", job, job.device, job.threads)


@step("tokenize", version=2, resumable=True)
def tokenize_rows(
    context: StepContext, splits: DatasetSplits, base: ModelRef, max_length: int, truncation: Truncation, template: str
) -> TokenizedDataset:
    """Render, tokenize and mark what is learned."""
    files = {name: context.local(getattr(splits, name).uri) for name in ("train", "validation", "test")}
    shards, rows = (sum(size) for size in zip(*((len(part.shards), part.rows) for part in splits.parts()), strict=True))
    with workers(processes_for(shards, rows), context.folder) as run:
        data = tokenizing.tokenize(
            splits, base, files, context.folder, context.uri, max_length=max_length, truncation=truncation,
            batch_size=_NOMINAL_BATCH, seed=0, template=template, run=run, progress=context.reporter.update,
        )  # fmt: skip
    for name in ("train", "validation", "test"):
        part = getattr(data, name)
        context.log_metrics({f"{name}.tokens": part.tokens, f"{name}.supervised": part.supervised_tokens})
        context.log_metrics({f"{name}.truncated_rows": part.truncated_rows})
    return data
