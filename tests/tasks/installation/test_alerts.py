"""The alerts at work: a real server sends real messages to a webhook on this machine."""

import subprocess
import sys
import time

import pytest

from tests.servers import ROOT, wait_for
from tests.tasks.installation.conftest import Api, Receiver, event

pytestmark = pytest.mark.slow
SAVE = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
data = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="receiver", url=sys.argv[1], json_data=data).save("receiver")
"""
ALERTS = {
    "tell of failed runs", "tell of rejected models", "tell of releases", "tell of waiting approvals",
    "tell of stalled trainings", "tell of idle devices",
}  # fmt: skip
RUN = "0195b6a8-0000-7000-8000-000000000000"


def test_alerts_reach_the_block(api: Api, receiver: Receiver) -> None:
    subprocess.run([sys.executable, "-c", SAVE, receiver.url], cwd=ROOT, env=dict(api.environment), check=True, timeout=60)
    plain = {name for what, name in api.setup() if what == "automation"}
    refused = api.run("--notify", "custom-webhook/other")
    assert "There are: custom-webhook/receiver." in refused.stderr
    made = api.setup("--notify", "custom-webhook/receiver", "--stall-minutes", "0.2")
    assert {name for (what, name), outcome in made.items() if outcome == "made"} == {f"tuneflow: {name}" for name in ALERTS}
    events(api, receiver)
    flow_runs(api, receiver)
    # Without --notify they stay as they are; with other minutes the two that wait differ.
    again = api.setup()
    assert set(again.values()) == {"kept"}
    assert {name for what, name in again if what == "automation"} == plain | {f"tuneflow: {name}" for name in ALERTS}
    other = api.setup("--notify", "custom-webhook/receiver", "--stall-minutes", "45", "--idle-minutes", "2")
    changed = {name for (_, name), outcome in other.items() if outcome == "changed"}
    assert changed == {"tuneflow: tell of stalled trainings", "tuneflow: tell of idle devices"}
    assert api.automation("tell of stalled trainings")["trigger"]["within"] == 2700
    assert api.automation("tell of idle devices")["trigger"]["within"] == 120


def events(api: Api, receiver: Receiver) -> None:
    """Every event of a run, and a training that falls silent, become one message."""
    first = event("tuneflow.training.step", "slow", text="step 1 of 90", flow_run_id=RUN)
    api.emit(first, event("tuneflow.training.step", "slow", first, text="step 7 of 90", flow_run_id=RUN))
    last = event("tuneflow.training.step", "ended", text="step 90 of 90")
    api.emit(event("tuneflow.training.ended", "ended", last, text="done"), last)  # a server may get them in any order
    for what, name in (("verdict.rejected", "poor"), ("release.finished", "good"), ("approval.waiting", "patient")):
        api.emit(event(f"tuneflow.{what}", name, text=f"What came of {name}.", flow_run_id=RUN))
    api.emit(*(event("tuneflow.device.idle", "idler", text="GPU 0 does nothing.") for _ in range(3)))
    wait_for(lambda: len(receiver.messages) >= 4, 20, "four messages")
    link = f"{api.environment['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{RUN}"
    assert receiver.about("poor") == [{"subject": "poor: rejected", "body": f"What came of poor.\n{link}"}]
    assert receiver.about("good") == [{"subject": "good: released", "body": f"What came of good.\n{link}"}]
    assert receiver.about("patient") == [{"subject": "patient: waits for approval", "body": f"What came of patient.\n{link}"}]
    assert [message["body"].strip() for message in receiver.about("idler: a device is idle")] == ["GPU 0 does nothing."]
    wait_for(lambda: receiver.about("slow"), 40, "the stalled training is told of")
    assert receiver.about("slow") == [{"subject": "slow: no step for 0.2 minutes", "body": f"Last heard: step 7 of 90\n{link}"}]
    assert receiver.about("ended") == []


def flow_runs(api: Api, receiver: Receiver) -> None:
    """A failed run with our tag becomes a message, and no other."""
    receiver.messages.clear()
    flow = api.call("POST", "/flows/", {"name": "failing"})["id"]
    for name, tags, state in (
        ("ours-failed", ["tuneflow"], {"type": "FAILED", "message": "Out of memory."}),
        ("ours-late", ["tuneflow"], {"type": "FAILED", "name": "TimedOut", "message": "Too slow."}),
        ("ours-done", ["tuneflow"], {"type": "COMPLETED"}),
        ("part-failed", ["tuneflow-part"], {"type": "FAILED"}),
        ("other-failed", [], {"type": "FAILED"}),
    ):
        run = api.call("POST", "/flow_runs/", {"flow_id": flow, "name": name, "tags": tags, "state": {"type": "RUNNING"}})["id"]
        api.call("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})
    wait_for(lambda: len(told(receiver)) >= 2, 40, "two messages")
    time.sleep(2)
    assert told(receiver) == ["ours-failed: Failed", "ours-late: TimedOut"]
    body = receiver.about("ours-failed")[0]["body"]
    assert body.startswith("Out of memory.\nhttp://127.0.0.1:")
    assert "/runs/flow-run/" in body


def told(receiver: Receiver) -> list[str]:
    return sorted(message["subject"] for message in receiver.messages)
