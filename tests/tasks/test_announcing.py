"""What a training announces names what it announced before, so that a server cannot take up its end before its last step."""

from pathlib import Path
from typing import Any

import pytest
from prefect.events import Event

from tasks import steps
from tasks.contracts import RunContext


def test_each_announcement_names_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Event | None, Event]] = []

    def announce(event: str, name: str, text: str, *, follows: Event | None = None, **payload: Any) -> Event:
        made = Event(
            event=f"tuneflow.{event}", resource={"prefect.resource.id": f"tuneflow.run.{name}"}, payload={"text": text}
        )
        told.append((event, follows, made))
        return made

    monkeypatch.setattr(steps, "announce", announce)
    monkeypatch.setattr(steps, "_SAY_SECONDS", 0.0)
    run = RunContext(name="bot", workspace=str(tmp_path))
    context = steps.StepContext(run, "train", tmp_path, "uri", "key")
    context.on_event({"kind": "started", "total": 2})
    context.on_event({"kind": "progress", "done": 1, "total": 2, "seconds_left": None})
    context.close()
    assert [event for event, _, _ in told] == ["training.step", "training.step", "training.ended"]
    assert [follows for _, follows, _ in told] == [None, told[0][2], told[1][2]]
