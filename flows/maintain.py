"""Housekeeping: what has not been used for long leaves the workspace and its store."""

from prefect import flow

from tasks.maintenance.spec import MaintenanceReport, MaintenanceSpec
from tasks.maintenance.steps import clean_workspace


@flow(name="maintenance")
def maintain(request: MaintenanceSpec) -> MaintenanceReport:
    """Remove old runs, checkpoints, cached results and remains of killed processes from the workspace.

    Args:
        request: what is old enough to go; a dry run unless it says otherwise.
    """
    return clean_workspace(request)
