"""Steps in their order, for flows that share them."""

from pathlib import Path

from flows.workload import OTHERS, workload
from tasks.contracts import HardwarePlan, ModelRef, PreparedData, RunContext, TokenizedDataset, TrainedModel
from tasks.data import steps
from tasks.data.loading import source_digests
from tasks.data.manifest import manifest_of
from tasks.data.running import processes_kept
from tasks.data.spec import DataSpec
from tasks.errors import ModelError
from tasks.records import recall
from tasks.resources.spec import ResourceSpec
from tasks.resources.steps import plan_hardware
from tasks.steps import source_options, store_of
from tasks.training.methods import Method
from tasks.training.spec import USUAL_LENGTH, TrainingSpec
from tasks.training.steps import resolve_model, train_once


def prepared(run: RunContext, spec: DataSpec, base: ModelRef, max_length: int, seed: int) -> PreparedData:
    """Load, validate, clean, split and tokenize the data of `spec` for the model `base`; `max_length` 0 is automatic."""
    digests = source_digests(spec, source_options(spec.access))
    with processes_kept():
        raw = steps.load_rows(run, spec.title(), spec.reading(), digests)
        report = steps.validate_rows(run, raw, spec.validation, spec.cleaning)
        clean = steps.clean_rows(run, raw, report, spec.cleaning)
        splits = steps.split_rows(run, clean, raw.files, spec.splitting, seed)
        if spec.augmentation.minimum_rows:
            paraphraser = spec.augmentation.paraphrase
            model = resolve_model(run, paraphraser, "", False) if paraphraser else None
            splits = steps.augment_rows(run, splits, spec.augmentation, model, seed)
        length = max_length or USUAL_LENGTH
        tokenized = steps.tokenize_rows(run, splits, base, length, spec.truncation, spec.chat_template)
    return PreparedData(
        raw=raw, validation=report, clean=clean, splits=splits, tokenized=tokenized,
        manifest=manifest_of(spec, max_length, seed, raw, clean, splits, tokenized),
    )  # fmt: skip


def trained(
    run: RunContext,
    method: Method,
    training: TrainingSpec,
    resources: ResourceSpec,
    base: ModelRef,
    data: TokenizedDataset,
    seed: int,
) -> tuple[HardwarePlan, TrainedModel]:
    """Plan the hardware, then train."""
    plan = plan_hardware(run, resources, base, method, workload(training, method, data), OTHERS)
    model = train_once(run, method, training, plan, base, data, seed)
    # The content is the same by the cache's key; the files may have moved since the model was trained.
    return plan, model.model_copy(update={"base": base})


def base_of(run: RunContext) -> ModelRef:
    """The run's base model, with its files on this machine.

    Raises:
        ModelError: what its address leads to here is another model.
    """
    base = recall(store_of(run), run.name, "base", ModelRef)
    if Path(base.location).is_dir():
        return base
    here = resolve_model(run, base.uri, base.revision, base.trust_remote_code)
    if here.sha256 != base.sha256:
        raise ModelError(
            f"The run {run.name!r} began with {base.uri} of sha256 {base.sha256[:12]}, but on this machine that address leads "
            f"to another model ({here.sha256[:12]}). Give every machine the same one, or use a hub id with a revision."
        )
    return here


def data_of(run: RunContext) -> PreparedData:
    """The run's prepared data."""
    return recall(store_of(run), run.name, "data", PreparedData)


def model_of(run: RunContext) -> TrainedModel:
    """The run's trained model, its base at hand."""
    return recall(store_of(run), run.name, "model", TrainedModel).model_copy(update={"base": base_of(run)})
