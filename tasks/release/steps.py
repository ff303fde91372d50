"""The release stage's steps."""

import json
from pathlib import Path

from tasks.contracts import (
    Deployment,
    EvaluationReport,
    ExportedModel,
    Parity,
    PreparedData,
    ReleaseResult,
    RunContext,
    TrainedModel,
    digest_of,
)
from tasks.release import package, parity
from tasks.release.exporters import Exporter
from tasks.release.job import ExportJob
from tasks.release.spec import ReleaseSpec
from tasks.steps import StepContext, step, store_of, tracker_of
from tasks.storage import link_tree, records_of

ALIAS = "champion"


@step("export-{exporter.kind}", version=1)
def export_model(
    context: StepContext,
    exporter: Exporter,
    model: TrainedModel,
    data: PreparedData,
    report: EvaluationReport,
    golden_prompts: int,
) -> ExportedModel:
    """Write the model in one format and hold it against the trained one."""
    job = ExportJob(
        trained=model, weights=context.local(model.uri), tokenizer=context.local(data.tokenized.tokenizer_uri),
        golden_file=context.local(data.tokenized.golden_uri), golden_prompts=golden_prompts, exporter=exporter,
        out=context.folder, threads=model.plan.threads,
    )  # fmt: skip
    context.run_worker("tasks.release.worker", job, model.plan)
    found = Parity.model_validate_json((context.folder / "parity.json").read_text(encoding="utf-8"))
    parity.demand(found, exporter.kind)
    artifact = context.folder / "model"
    export = _exported(f"{context.uri}/model", artifact, exporter, model, found)
    package.write_package(artifact, context.run.name, export, model, data, report)
    return _exported(f"{context.uri}/model", artifact, exporter, model, found)


def publish_release(
    run: RunContext, spec: ReleaseSpec, exports: tuple[ExportedModel, ...], model: TrainedModel, report: EvaluationReport
) -> ReleaseResult:
    """Put the exports into the workspace's `models/` and register the first of them, once for the same content."""
    folder = Path(run.workspace) / "models" / run.name
    source = ""
    for number, export in enumerate(exports):
        target = folder if number == 0 else folder.with_name(f"{run.name}-{export.format}")
        link_tree(store_of(run).local(export.uri), target)
        source = source or str(target)
    tracker = tracker_of(run)
    tags = {
        "tuneflow.model_sha256": model.sha256,
        "tuneflow.export_sha256": exports[0].sha256,
        "tuneflow.data_sha256": model.data_sha256,
        "tuneflow.verdict": report.verdict.status,
        "tuneflow.reasons": json.dumps(report.verdict.reasons)[:4000],
    }
    before = tracker.alias(run.name, ALIAS)
    version = tracker.version_with(run.name, "tuneflow.export_sha256", exports[0].sha256)
    if not version:
        address = tracker.log_folder(run.run_id, Path(source), "model")
        version = tracker.register(run.name, address, run.run_id, tags)
    tracker.promote(run.name, version, ALIAS)
    deployment = Deployment(
        target=spec.target.kind, endpoint=source, version=version, previous_version=before if before != version else "",
        status="live",
    )  # fmt: skip
    return ReleaseResult(exports=exports, registered=f"models:/{run.name}/{version}", alias=ALIAS, deployment=deployment)


def _exported(uri: str, artifact: Path, exporter: Exporter, model: TrainedModel, found: Parity) -> ExportedModel:
    files = records_of(artifact)
    return ExportedModel(
        uri=uri,
        sha256=digest_of([(file.path, file.sha256) for file in files]),
        model_sha256=model.sha256,
        format=exporter.kind,
        files=files,
        bytes=sum(file.bytes for file in files),
        parity=found,
    )
