"""How far a training is stands on its flow run's page."""

import pytest

pytestmark = pytest.mark.slow


def test_a_bar_is_made_once_and_moved() -> None:
    from prefect import flow, get_client
    from prefect.testing.utilities import prefect_test_harness

    from tasks.orchestration.steps import show_progress

    @flow
    def work() -> bool:
        shown = show_progress(None, 0.25, "step 1 of 4")
        return shown is not None and show_progress(shown, 0.5, "step 2 of 4, about 10 s left") == shown

    assert show_progress(None, 0.5, "outside of a flow run") is None
    with prefect_test_harness(server_startup_timeout=300):
        assert work()
        with get_client(sync_client=True) as client:
            (artifact,) = client.read_artifacts()
    assert (artifact.type, float(str(artifact.data)), artifact.description) == (
        "progress", 50.0, "step 2 of 4, about 10 s left",
    )  # fmt: skip
