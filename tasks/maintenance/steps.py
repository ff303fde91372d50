"""The maintenance stage's step."""

import logging
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from prefect import get_client, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from tasks.contracts import RunContext
from tasks.errors import WorkspaceError
from tasks.maintenance.inventory import Place, flow_run_of, runs, stored_runs
from tasks.maintenance.page import headline, markdown
from tasks.maintenance.retention import plan
from tasks.maintenance.spec import MaintenanceReport, MaintenanceSpec
from tasks.maintenance.sweeping import sweep
from tasks.steps import let_the_story_through, store_of
from tasks.storage import Store
from tasks.workspace import workspace_folder

log = logging.getLogger("tuneflow")
ARTIFACT = "maintenance"
_BATCH = 100  # flow runs read at a time


@task(name="clean_workspace", cache_policy=NO_CACHE, persist_result=False)
def clean_workspace(spec: MaintenanceSpec) -> MaintenanceReport:
    """Remove what is old from the workspace of TUNEFLOW_WORKSPACE, or in a dry run say what would go.

    Raises:
        WorkspaceError: there is no such workspace.
        ServiceError: there is no such store block.
    """
    let_the_story_through()
    workspace = workspace_folder()
    if not workspace.is_dir():
        raise WorkspaceError(f"There is no workspace {workspace}. Set TUNEFLOW_WORKSPACE to the one that is to be cleaned.")
    store = store_of(RunContext(name=ARTIFACT, workspace=str(workspace), store=spec.store))
    report = maintain_folder(workspace, store, spec, time.time(), open_flow_runs(Place(workspace, store)))
    create_markdown_artifact(markdown(report), key=ARTIFACT, description=headline(report))
    return report


def open_flow_runs(place: Place) -> set[str]:
    """The flow runs of the runs known here that Prefect has not ended: they work, wait for a person, or start again."""
    names = {*(folder.name for folder in runs(place.workspace)), *stored_runs(place)}
    ids = sorted(found for name in names if (found := _uuid(flow_run_of(place.store, name))))
    still_open: set[str] = set()
    with get_client(sync_client=True) as client:
        for first in range(0, len(ids), _BATCH):
            wanted = FlowRunFilterId(any_=ids[first : first + _BATCH])
            flow_runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=wanted))
            still_open |= {str(each.id) for each in flow_runs if each.state is None or not each.state.is_final()}
    return still_open


def _uuid(text: str) -> UUID | None:
    with suppress(ValueError):
        return UUID(text)
    return None


def maintain_folder(
    workspace: Path, store: Store, spec: MaintenanceSpec, now: float, open_flow_runs: Collection[str] = ()
) -> MaintenanceReport:
    """Plan, remove where it is no dry run, and log a line an item."""
    planned = plan(workspace, store, spec, now, open_flow_runs)
    items = planned.items if spec.dry_run else sweep(workspace, store, planned.items, open_flow_runs)
    report = MaintenanceReport(
        workspace=str(workspace), store=store.root, dry_run=spec.dry_run, items=items, kept=planned.kept, notes=planned.notes,
        bytes_freed=sum(item.bytes for item in items if item.removed or spec.dry_run),
    )  # fmt: skip
    for item in items:
        what = "would remove" if spec.dry_run else "removed" if item.removed else "kept"
        log.info("%s %s %s, %d bytes: %s", what, item.kind, item.key, item.bytes, item.reason)
    for note in planned.notes:
        log.warning("%s", note)
    log.info("%s", headline(report))
    return report
