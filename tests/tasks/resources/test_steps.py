"""The step itself: what it reads of the workspace, and a probe in a child process."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.caching import content
from tasks.contracts import ModelRef, RunContext
from tasks.resources.hardware import Machine, find_machine
from tasks.resources.spec import ResourceSpec
from tasks.resources.steps import past_of, plan_hardware
from tasks.training.methods.lora import Lora
from tests.tasks.resources.conftest import work
from tests.tasks.test_contracts import MODEL

RUN = RunContext(name="bot", workspace="")


def step(tmp_path: Path, base: ModelRef, **asked: Any) -> Any:
    """Run the step's own function, without Prefect and the cache."""
    folder = tmp_path / "step"
    folder.mkdir()
    context = SimpleNamespace(
        run=RUN.model_copy(update={"workspace": str(tmp_path)}), folder=folder, log_file=tmp_path / "plan.log",
        held=lambda *_: nullcontext(()), on_line=lambda _: None,
    )  # fmt: skip
    small = work(batch_size=4, longest=32, tokens=1000)
    return plan_hardware.__wrapped__(context, ResourceSpec(**asked), base, Lora(rank=4), small, ())  # type: ignore[attr-defined]


def test_earlier_trainings_of_the_workspace_are_learned_from(tmp_path: Path) -> None:
    plan = MODEL.plan.model_copy(update={"hours": 1.0, "memory_gib": 1.0, "time_factor": 1.0, "memory_factor": 1.0})
    forecast = MODEL.forecast.model_copy(update={"actual_hours": 2.0, "actual_memory_gib": 1.5})
    model = MODEL.model_copy(update={"plan": plan, "forecast": forecast, "resumed_from": 0, "recoveries": ()})
    machine = Machine(plan.accelerator, plan.device_name, 1, 16.0, 1, False)
    for number in range(3):
        folder = tmp_path / "runs" / f"run-{number}" / "values"
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(model.model_dump_json())
    broken = tmp_path / "runs" / "broken" / "values"
    broken.mkdir(parents=True)
    (broken / "model.json").write_text('{"of": "another version"}')
    run = RUN.model_copy(update={"workspace": str(tmp_path)})
    found = past_of(run, machine)
    assert (found.trainings, found.time, found.memory) == (3, 2.0, 1.5)
    assert past_of(run, find_machine()).trainings in (0, 3)


def test_the_key_is_made_of_all_that_decides() -> None:
    assert content(work(tokens=1)) != content(work(tokens=2))
    assert content((Lora(),)) != content((Lora(rank=4),))


def test_a_plan_without_a_probe(tmp_path: Path, tiny_base: ModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.resources.hardware._may_have_gpu", lambda: False)
    found = step(tmp_path, tiny_base)
    assert (found.micro_batch, found.accumulation, found.precision) == (4, 1, "fp32")
    assert not any("probe" in reason for reason in found.reasons)
    assert any("by a pass without data" in reason for reason in found.reasons)


@pytest.mark.slow
def test_a_plan_with_a_probe_goes_by_what_it_measured(
    tmp_path: Path, tiny_base: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.resources.hardware._may_have_gpu", lambda: False)
    found = step(tmp_path, tiny_base, probe="on", devices=1)
    assert found.micro_batch in (1, 2, 4)
    assert any(
        reason.startswith("time: by the ") and reason.endswith("tokens a second of the probe") for reason in found.reasons
    )
    assert any("the fastest tried, by tokens a second (1: " in reason for reason in found.reasons)
    assert not (tmp_path / "step" / "probe.json").exists()
