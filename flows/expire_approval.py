"""No answer in time is a no."""

from prefect import flow

from tasks.release.steps import refuse_unanswered


@flow(name="expire-approval")
def expire_approval(flow_run_id: str) -> str:
    """Refuse a release that a person was asked about and that nobody answered. A run schedules this for itself.

    Args:
        flow_run_id: the flow run that waits.
    """
    return refuse_unanswered(flow_run_id)
