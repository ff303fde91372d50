"""Opening and closing a run: MLflow's parent run, the report page, the result file."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.caching import flatten
from tasks.contracts import (
    EvaluationReport,
    FinetuneResult,
    HardwarePlan,
    ModelRef,
    PreparedData,
    ReleaseResult,
    RunContext,
    StepRecord,
    TrainedModel,
    digest_of,
)
from tasks.errors import RequestError
from tasks.reporting import report
from tasks.steps import store_of, tracker_of
from tasks.storage import write_text
from tasks.workspace import prepare_workspace, workspace_folder

log = logging.getLogger("tuneflow")
_QUARANTINE_EXAMPLES = 20


@contextmanager
def opened_run(name: str, request: Mapping[str, Any], store: str, tracking: str, hub: str) -> Iterator[RunContext]:
    """A run of a request: its parent run in MLflow ends as FAILED where an exception leaves."""
    if log.level == logging.NOTSET:
        log.setLevel(logging.DEBUG)  # under a worker nothing else lets the story into the run's log
    workspace = workspace_folder()
    prepare_workspace(workspace)
    run = RunContext(name=name, workspace=str(workspace), store=store, tracking=tracking, hub=hub, started=time.time())
    with _only_one(run):
        yield from _tracked(run, request)


def _tracked(run: RunContext, request: Mapping[str, Any]) -> Iterator[RunContext]:
    name = run.name
    tracker = tracker_of(run)
    if interrupted := tracker.close_interrupted():
        log.info("%d earlier run(s) of %s had been interrupted; what they finished is used", interrupted, name)
    run_id = tracker.open(name, {"tuneflow.request_sha256": digest_of(request)})
    tracker.log_parameters(run_id, flatten(request))
    try:
        yield run.model_copy(update={"run_id": run_id})
    except BaseException:
        tracker.close(run_id, "FAILED")
        raise
    tracker.close(run_id)


@contextmanager
def _only_one(run: RunContext) -> Iterator[None]:
    """Hold the run's name: two runs at once would overwrite each other's records.

    Raises:
        RequestError: another process holds it.
    """
    path = Path(run.workspace) / "runs" / run.name / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RequestError(
            f"Another run of {run.name!r} is under way in {run.workspace}. Wait for its end, or choose another name."
        ) from error
    try:
        yield
    finally:
        lock.release()


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
    release: ReleaseResult | None,
) -> FinetuneResult:
    """Put the run together: the result, its page, its artifact in Prefect and in MLflow."""
    folder = Path(run.workspace) / "runs" / run.name
    result = FinetuneResult(
        name=run.name, status="released" if release else "rejected", request_sha256=digest_of(request), data=data, base=base,
        plan=plan, model=model, evaluation=evaluation, release=release,
        rejected_reasons=() if release else evaluation.verdict.reasons, steps=steps_of(run),
        report_uri=str(folder / "report.html"), run_id=run.run_id, seconds=time.time() - run.started,
    )  # fmt: skip
    store = store_of(run)
    page = report.render(
        result, request, history(store.local(model.history_uri)), quarantine(store.local(data.clean.quarantine_uri)),
        defaults=defaults, generated_at=time.strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip
    write_text(folder / "report.html", page)
    write_text(folder / "result.json", result.model_dump_json(indent=1))
    create_markdown_artifact(report.markdown(result), key=f"report-{run.name}", description=report.headline(result))
    _track(run, result, page)
    return result


def steps_of(run: RunContext) -> tuple[StepRecord, ...]:
    """The records of this run's steps, in their order."""
    folder = Path(run.workspace) / "runs" / run.name / "steps"
    records = [StepRecord.model_validate_json(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return tuple(sorted((record for record in records if record.at >= run.started), key=lambda record: record.at))


def history(path: Path) -> list[dict[str, Any]]:
    """The points of a training's history."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def quarantine(path: Path) -> list[dict[str, Any]]:
    """Some of the dropped rows."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).slice(0, _QUARANTINE_EXAMPLES).to_pylist()
    return rows


def _track(run: RunContext, result: FinetuneResult, page: str) -> None:
    tracker = tracker_of(run)
    data = result.data
    profile = json.dumps({"rows": data.raw.rows, "train": data.splits.train.rows, "test": data.splits.test.rows})
    source = json.dumps({"files": [file.address for file in data.raw.files], "sha256": data.raw.sha256})
    tracker.log_dataset(run.run_id, data.raw.name, data.tokenized.sha256, source, profile)
    tracker.log_text(run.run_id, page, "report.html")
    tracker.log_text(run.run_id, result.model_dump_json(indent=1), "result.json")
    numbers = {f"{score.benchmark}.{score.metric}.{score.model}": score.value for score in result.evaluation.scores}
    passed = float(result.evaluation.verdict.passed)
    tracker.log_metrics(run.run_id, [(0, {**numbers, "seconds": result.seconds, "verdict.passed": passed})])
