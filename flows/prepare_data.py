"""Rows in, tokens out."""

from prefect import flow

from tasks.contracts import ModelRef, PreparedData, RunContext
from tasks.data import steps
from tasks.data.loading import source_digests
from tasks.data.spec import DataSpec


@flow(name="prepare-data", flow_run_name="prepare {run.name}", validate_parameters=False)
def prepare_data(run: RunContext, spec: DataSpec, base: ModelRef, max_length: int, seed: int) -> PreparedData:
    """Load, validate, clean, split and tokenize the data of `spec` for the model `base`."""
    raw = steps.load_rows(run, spec.title(), spec.reading(), source_digests(spec, {}))
    report = steps.validate_rows(run, raw, spec.validation, spec.cleaning)
    clean = steps.clean_rows(run, raw, report, spec.cleaning)
    splits = steps.split_rows(run, clean, raw.files, spec.splitting, seed)
    tokenized = steps.tokenize_rows(run, splits, base, max_length, spec.truncation)
    return PreparedData(raw=raw, validation=report, clean=clean, splits=splits, tokenized=tokenized)
