"""The release stage's steps."""

import json
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.deployments import run_deployment
from prefect.flow_runs import resume_flow_run, suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.contracts import (
    Approval,
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
from tasks.errors import RequestError
from tasks.orchestration.steps import announce, is_deployed
from tasks.records import keep, recall_if_known
from tasks.release import approval, package, parity
from tasks.release.exporters import Exporter
from tasks.release.job import ExportJob
from tasks.release.spec import ReleaseSpec
from tasks.steps import StepContext, step, store_of, tracker_of
from tasks.storage import link_tree, records_of

ALIAS = "champion"
log = logging.getLogger("tuneflow")


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
    context.run_worker("tasks.release.worker", job, model.plan.accelerator, model.plan.threads)
    found = Parity.model_validate_json((context.folder / "parity.json").read_text(encoding="utf-8"))
    parity.demand(found, exporter.kind)
    artifact = context.folder / "model"
    export = _exported(f"{context.uri}/model", artifact, exporter, model, found)
    package.write_package(artifact, context.run.name, export, model, data, report)
    return _exported(f"{context.uri}/model", artifact, exporter, model, found)


def demand_passed(run: RunContext, spec: ReleaseSpec, report: EvaluationReport, model: TrainedModel) -> None:
    """Refuse a model without evidence.

    Raises:
        RequestError: the evidence is about another model, is not good enough, or lacks a person's yes that was asked for.
    """
    if report.model_sha256 != model.sha256:
        raise RequestError(
            f"The evaluation of {run.name!r} is about another model ({report.model_sha256[:12]}, not {model.sha256[:12]}). "
            f"Start assess-model for it first."
        )
    if not report.verdict.passed:
        reasons = " ".join(report.verdict.reasons)
        raise RequestError(f"The model of {run.name!r} is not released: its verdict is {report.verdict.status}. {reasons}")
    if spec.approval.required and not _approved(run, model):
        raise RequestError(
            f"The release of {run.name!r} needs a person's yes, and none is recorded for this model. Start it as a part of "
            f"finetune, which asks, or set release.approval.required to false."
        )


def _approved(run: RunContext, model: TrainedModel) -> bool:
    given = recall_if_known(store_of(run), run.name, "approval", Approval)
    return given is not None and given.granted and given.model_sha256 == model.sha256


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
    registered = f"models:/{run.name}/{version}"
    announce("release.finished", run.name, f"{registered} is released as {ALIAS}: {' '.join(report.verdict.reasons)}")
    return ReleaseResult(exports=exports, registered=registered, alias=ALIAS, deployment=deployment)


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


class Answer(RunInput):
    """A person's answer: yes or no, and who says so."""

    approve: bool = Field(default=False, title="Release this model", description="On: yes. Off: no.")
    name: str = Field(default="", title="Your name", description="Kept with the answer. A yes without a name counts as a no.")
    comment: str = Field(default="", title="Comment", description="Why. Kept with the answer.")


def demand_askable(spec: ReleaseSpec) -> None:
    """Refuse a request that asks for a person's yes where a run cannot wait for one.

    Raises:
        RequestError: the run is not a deployment's.
    """
    if spec.approval.required and not is_deployed():
        raise RequestError(
            "release.approval.required needs a run that can wait without holding a process: start it from a deployment "
            "(`tuneflow up`, then the finetune form or `prefect deployment run finetune/finetune`), or set it to false."
        )


def ask_approval(run: RunContext, spec: ReleaseSpec, model: TrainedModel, report: EvaluationReport) -> Approval | None:
    """A person's answer where one is asked for and the model passed, else None.

    The flow run is suspended meanwhile: it holds no process and no slot. The answer is kept with the model that it is about.
    """
    if not spec.approval.required or not report.verdict.passed:
        return None
    store = store_of(run)
    before = recall_if_known(store, run.name, "approval", Approval)
    if before and (before.model_sha256, before.flow_run_id) == (model.sha256, run.flow_run_id):
        return before
    answer = _answer(run, spec.approval.hours, approval.question(run.name, model, report, spec.approval.hours))
    given = Approval(
        granted=answer.approve and bool(answer.name.strip()), by=answer.name.strip(), at=time.time(),
        comment=answer.comment if answer.name.strip() or not answer.approve else "the yes came without a name",
        model_sha256=model.sha256, flow_run_id=run.flow_run_id,
    )  # fmt: skip
    keep(store, run.name, "approval", given)
    log.info("approval: %s by %s", "granted" if given.granted else "refused", given.by or "nobody")
    return given


def _answer(run: RunContext, hours: float, question: str) -> Answer:
    announce("approval.waiting", run.name, f"the release of {run.name} waits for a yes in Prefect's UI", hours=hours)
    run_deployment(
        "expire-approval/expire-approval", parameters={"flow_run_id": run.flow_run_id}, timeout=0, as_subflow=False,
        scheduled_time=datetime.now(UTC) + timedelta(hours=hours), idempotency_key=f"expire-{run.flow_run_id}",
    )  # fmt: skip
    wanted = Answer.with_initial_data(description=question)
    # Prefect's own deadline would fail the run; ours, above, ends it as rejected. It is there for a worker that never comes.
    return suspend_flow_run(wait_for_input=wanted, timeout=int(hours * 3600) + 86_400, key="approval")


def refuse_unanswered(flow_run_id: str) -> str:
    """Answer no for a flow run that still waits for a person; what was done."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(flow_run_id)).state
    if state is None or not state.is_paused():
        return f"nothing to do: the flow run is {state.name if state else 'unknown'}"
    resume_flow_run(UUID(flow_run_id), run_input={"approve": False, "name": "", "comment": "nobody answered in time"})
    return "answered no: nobody answered in time"
