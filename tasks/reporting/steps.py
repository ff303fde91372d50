"""Opening and closing a run: MLflow's parent run, the report page, the result file."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import BaseFileLock, FileLock, Timeout
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import Pause
from pydantic import BaseModel

from tasks.caching import flatten
from tasks.contracts import (
    Approval,
    EvaluationReport,
    FinetuneResult,
    HardwarePlan,
    ModelRef,
    PreparedData,
    ReleaseResult,
    RunContext,
    SearchResult,
    StepRecord,
    TrainedModel,
    Value,
    digest_of,
)
from tasks.errors import RequestError
from tasks.orchestration.steps import announce, as_parts, belongs_to, own_flow_run, waits_for_answer
from tasks.records import context_of, forget, keep, known, recall_if_known
from tasks.reporting import data_facts, data_page, data_summary, report
from tasks.reporting.examples import dropped_examples
from tasks.reporting.stages import shown
from tasks.steps import let_the_story_through, store_of, tracker_of
from tasks.storage import write_text
from tasks.tracking import Tracker
from tasks.workspace import prepare_workspace, workspace_folder

V = TypeVar("V", bound=Value)
log = logging.getLogger("tuneflow")
DATA_PAGE, TOKENS_PAGE, MANIFEST = "data.html", "tokens.html", "dataset.json"
_PATIENCE_SECONDS = 1.0


@contextmanager
def opened_run(
    name: str, request: BaseModel, store: str, tracking: str, hub: str, anew: bool = True, encryption: str = ""
) -> Iterator[RunContext]:
    """A run of a request: its parent run in MLflow ends as FAILED where an exception leaves.

    Args:
        name: of the run.
        request: what was asked.
        store: name of the store block.
        tracking: name of the tracking block.
        hub: name of the hub block.
        anew: forget what other flow runs left in the run's record. A stage that goes on with it does not.
        encryption: name of the data key block.

    Raises:
        RequestError: another process works on a run of this name, or one waits for an answer.
    """
    let_the_story_through()
    workspace = workspace_folder()
    prepare_workspace(workspace)
    flow_run = own_flow_run()
    run = RunContext(
        name=name, workspace=str(workspace), store=store, tracking=tracking, hub=hub, encryption=encryption,
        started=time.time(), flow_run_id=str(flow_run.id) if flow_run else "",
    )  # fmt: skip
    with _only_one(run), as_parts():
        _take_over(run, anew)
        yield from _tracked(run, request.model_dump(mode="json"))


@contextmanager
def opened_stage(
    name: str, request: BaseModel, store: str, tracking: str | None = None, hub: str | None = None,
    encryption: str | None = None,
) -> Iterator[RunContext]:  # fmt: skip
    """A run for one of its stages: the run under way that this flow run is a part of, else one opened for the stage alone.

    Args:
        name: of the run.
        request: of the stage.
        store: name of the store block in which the run's record lies.
        tracking: name of a tracking block. None: that of the run so far, which must be known.
        hub: name of a hub block. None: that of the run so far.
        encryption: name of a data key block. None: that of the run so far.

    Raises:
        RequestError: the run is not known, or another process works on it.
    """
    let_the_story_through()
    workspace = str(workspace_folder())
    records = store_of(RunContext(name=name, workspace=workspace, store=store))
    if tracking is None or known(records, name, "context"):
        so_far = context_of(records, name, workspace)
        if belongs_to(so_far.flow_run_id):
            yield so_far.model_copy(update={"part": True})
            return
        tracking, hub = tracking if tracking is not None else so_far.tracking, hub if hub is not None else so_far.hub
        encryption = encryption if encryption is not None else so_far.encryption
    with opened_run(name, request, store, tracking, hub or "", anew=False, encryption=encryption or "") as run:
        yield run


def keep_value(run: RunContext, kind: str, value: V) -> V:
    """Keep a stage's value in the run's record, for later stages wherever they run, and show it with the flow run."""
    keep(store_of(run), run.name, kind, value)
    if page := shown(value):
        create_markdown_artifact(page[1], key=f"{kind}-{run.name}", description=page[0])
    return value


def _tracked(run: RunContext, request: Mapping[str, Any]) -> Iterator[RunContext]:
    tracker = tracker_of(run)
    if going_on := _open_before(run):
        tracker.reopen(going_on)
        opened = run.model_copy(update={"run_id": going_on})
    else:
        if interrupted := tracker.close_interrupted():
            log.info("%d earlier run(s) of %s had been interrupted; what they finished is used", interrupted, run.name)
        opened = run.model_copy(update={"run_id": tracker.open(run.name, {"tuneflow.request_sha256": digest_of(request)})})
        tracker.log_parameters(opened.run_id, flatten(request))
    keep_value(opened, "context", opened)
    try:
        yield opened
    except Pause:
        raise  # suspended: the same flow run goes on later
    except BaseException:
        tracker.close(opened.run_id, "FAILED")
        raise
    tracker.close(opened.run_id)


def _take_over(run: RunContext, anew: bool) -> None:
    """Make the run's record this flow run's own.

    Raises:
        RequestError: another flow run of this name waits for a person's answer about what the record holds.
    """
    store = store_of(run)
    so_far = recall_if_known(store, run.name, "context", RunContext)
    if so_far is None:
        return
    before = so_far.flow_run_id
    if before and before == run.flow_run_id:
        return
    if before and run.flow_run_id and waits_for_answer(before):
        raise RequestError(
            f"A run of {run.name!r} waits for a person's answer in Prefect, as flow run {before}. Answer it or cancel it "
            f"first, or choose another name."
        )
    if anew:
        forget(store, run.name)


def _open_before(run: RunContext) -> str:
    """The MLflow run that an earlier start of the same flow run opened, before it was suspended or crashed."""
    before = recall_if_known(store_of(run), run.name, "context", RunContext)
    mine = before is not None and run.flow_run_id and (before.flow_run_id, before.tracking) == (run.flow_run_id, run.tracking)
    return before.run_id if before and mine else ""


@contextmanager
def _only_one(run: RunContext) -> Iterator[None]:
    """Hold the run's name: two runs at once would overwrite each other's records.

    Raises:
        RequestError: another process holds it.
    """
    lock = _name_lock(Path(run.workspace) / "runs" / run.name / ".lock")
    if lock is None:
        raise RequestError(
            f"Another run of {run.name!r} is under way in {run.workspace}. Wait for its end, or choose another name."
        )
    try:
        yield
    finally:
        lock.release()


def _name_lock(path: Path) -> BaseFileLock | None:
    """The lock, taken; None where somebody else keeps it. Maintenance may hold it, or remove its folder, for a moment."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except (Timeout, FileNotFoundError):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)
            continue
        return lock


@task(name="write_data_page", task_run_name="data page {run.name}", cache_policy=NO_CACHE, persist_result=False)
def write_data_page(run: RunContext, data: PreparedData, request: BaseModel) -> Path:
    """Write the page on a run's data and their manifest, and keep them in Prefect and in MLflow; the page's address.

    Args:
        run: whose data they are.
        data: what preparing gave.
        request: what was asked of the preparing.
    """
    folder = Path(run.workspace) / "runs" / run.name
    tokens = folder / TOKENS_PAGE
    page = data_page.render(
        run.name, data, request, dropped_rows(run, data), tokens_page=TOKENS_PAGE if tokens.exists() else "",
        run_id=run.run_id, generated_at=time.strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip
    write_text(folder / DATA_PAGE, page)
    create_markdown_artifact(
        data_summary.markdown(data, folder / DATA_PAGE), key=f"data-{run.name}", description=data_facts.headline(data)
    )
    manifest = data.manifest.model_dump_json(indent=1)
    write_text(folder / MANIFEST, manifest)
    tracker = tracker_of(run)
    tracker.log_text(run.run_id, page, DATA_PAGE)
    tracker.log_text(run.run_id, manifest, MANIFEST)
    _track_data(tracker, run, data)
    if tokens.exists():
        tracker.log_text(run.run_id, tokens.read_text(encoding="utf-8"), TOKENS_PAGE)
    return folder / DATA_PAGE


@task(name="write_report", task_run_name="report {run.name}", cache_policy=NO_CACHE, persist_result=False)
def write_report(
    run: RunContext,
    request: dict[str, Any],
    defaults: dict[str, Any],
    base: ModelRef,
    data: PreparedData,
    plan: HardwarePlan,
    model: TrainedModel,
    evaluation: EvaluationReport,
    approval: Approval | None,
    release: ReleaseResult | None,
    search: SearchResult | None = None,
) -> FinetuneResult:
    """Put the run together: the result, its page, its artifact in Prefect and in MLflow."""
    folder = Path(run.workspace) / "runs" / run.name
    result = FinetuneResult(
        name=run.name, status="released" if release else "rejected", request_sha256=digest_of(request), data=data, base=base,
        search=search, plan=plan, model=model, evaluation=evaluation, approval=approval, release=release,
        rejected_reasons=() if release else _why_not(evaluation, approval), steps=steps_of(run),
        report_uri=str(folder / "report.html"), run_id=run.run_id, seconds=time.time() - run.started,
    )  # fmt: skip
    store = store_of(run)
    page = report.render(
        result, request, history(store.local(model.history_uri)), dropped_rows(run, data),
        defaults=defaults, generated_at=time.strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip
    write_text(folder / "report.html", page)
    write_text(folder / "result.json", result.model_dump_json(indent=1))
    create_markdown_artifact(report.markdown(result), key=f"report-{run.name}", description=report.headline(result))
    if not release:
        announce("verdict.rejected", run.name, " ".join(result.rejected_reasons))
    _track(run, result, page)
    return result


def _why_not(evaluation: EvaluationReport, approval: Approval | None) -> tuple[str, ...]:
    if not evaluation.verdict.passed or approval is None:
        return evaluation.verdict.reasons
    who = f"{approval.by} did not approve the release" if approval.by else "The release was not approved"
    return (f"{who}: {approval.comment or 'no comment'}.", *evaluation.verdict.reasons)


def steps_of(run: RunContext) -> tuple[StepRecord, ...]:
    """The records of this run's steps, in their order."""
    folder = Path(run.workspace) / "runs" / run.name / "steps"
    records = [StepRecord.model_validate_json(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return tuple(sorted((record for record in records if record.at >= run.started), key=lambda record: record.at))


def history(path: Path) -> list[dict[str, Any]]:
    """The points of a training's history."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def dropped_rows(run: RunContext, data: PreparedData) -> list[dict[str, Any]]:
    """Some of the rows that were dropped by cleaning, by the search for shared text and as tokens; none of encrypted data."""
    if run.encryption:
        return []
    store = store_of(run)
    folders = [store.local(data.clean.quarantine_uri)] if data.clean.ledger.dropped else []
    if data.splits.quarantine_uri:
        folders.append(store.local(data.splits.quarantine_uri))
    if address := data_facts.token_quarantine(data):
        folders.append(store.local(address))
    return dropped_examples(folders)


def _track_data(tracker: Tracker, run: RunContext, data: PreparedData) -> None:
    """Name the data as the run's input, by their version."""
    profile = json.dumps({"rows": data.raw.rows, "train": data.splits.train.rows, "test": data.splits.test.rows})
    source = json.dumps({"files": [file.address for file in data.raw.files], "sha256": data.raw.sha256})
    tracker.log_dataset(run.run_id, data.raw.name, data.manifest.sha256, source, profile)


def _track(run: RunContext, result: FinetuneResult, page: str) -> None:
    tracker = tracker_of(run)
    tracker.log_text(run.run_id, page, "report.html")
    tracker.log_text(run.run_id, result.model_dump_json(indent=1), "result.json")
    numbers = {f"{score.benchmark}.{score.metric}.{score.model}": score.value for score in result.evaluation.scores}
    passed = float(result.evaluation.verdict.passed)
    tracker.log_metrics(run.run_id, [(0, {**numbers, "seconds": result.seconds, "verdict.passed": passed})])
