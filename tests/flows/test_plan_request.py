"""`tuneflow plan`: a plan for this machine and a table of others, without a run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.plan_request import console, plan_request
from flows.reading import parse_request
from flows.workload import guessed, smallest, workload
from tasks.contracts import ModelRef
from tasks.errors import RequestError
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.spec import AdvancedTraining, TrainingSpec
from tests.tasks.test_models import byte_tokenizer

ROWS = "".join(json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n" for n in range(200))


@pytest.fixture(scope="module")
def workspace(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a whole base model, models/tiny, and rows."""
    folder = tmp_path_factory.mktemp("planned")
    byte_tokenizer(eos_token="<end>").save_pretrained(shutil.copytree(tiny_base.location, folder / "models" / "tiny"))
    (folder / "rows.jsonl").write_text(ROWS)
    return folder


def asked(workspace: Path, **changes: Any) -> Any:
    content = {
        "name": "bot",
        "base_model": {"uri": "models/tiny"},
        "data": {"source": str(workspace / "rows.jsonl")},
        **changes,
    }
    return parse_request(content, "")


def test_a_plan_and_the_machines_that_hold_it(workspace: Path) -> None:
    found = plan_request(asked(workspace, training={"max_steps": 10}, resources={"devices": 1}), workspace)
    plan = found["plan"]
    assert (plan["devices"], plan["zero_stage"], plan["offload"], found["refused"]) == (1, 0, "none", "")
    assert plan["hours"] > 0
    assert any(reason.startswith("memory, in GiB by a pass without data: ") for reason in plan["reasons"])
    said = next(reason for reason in plan["reasons"] if reason.startswith("the data are not prepared yet: about"))
    assert f"from {len(ROWS):,} bytes of source files" in said
    assert {row["best"] for row in found["offers"]} == {True, False}
    text = console(found)
    assert "Forecast: " in text
    assert f"list prices of {found['dated']}" in text
    assert not (workspace / "runs").exists()


def test_what_does_not_fit_here_still_has_machines(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.resources import hardware
    from tasks.resources.hardware import Machine

    monkeypatch.setattr(hardware, "find_machine", lambda: Machine("cpu", "Small", 1, 0.1, 1, False, 0.1))
    found = plan_request(asked(workspace), workspace)
    assert found["plan"] is None
    assert "GiB of a Small can be used" in found["refused"]
    assert "USD an hour" in found["refused"]
    assert found["offers"]
    assert console(found).startswith("Training models/tiny with method lora")


def test_own_prices_count(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    device = {"name": "Mine", "memory_gib": 40, "teraflops": 100, "watts": 100, "on_demand": 1.0, "spot": 0.5}
    path.write_text(yaml.safe_dump({"dated": "2031-01", "devices": [device], "regions": {"world": 1}}))
    found = plan_request(asked(workspace, resources={"offers": str(path)}), workspace)
    assert {row["machine"] for row in found["offers"]} == {"1 x Mine, on demand", "1 x Mine, spot"}
    with pytest.raises(RequestError, match=r"Unknown resources.region 'mars'. Known: world"):
        plan_request(asked(workspace, resources={"offers": str(path), "region": "mars"}), workspace)


def test_what_the_settings_say_of_the_work(tiny_base: ModelRef) -> None:
    spec = TrainingSpec(epochs=3, batch_size=4, max_length=128, advanced=AdvancedTraining(activation_checkpointing="on"))
    found = guessed(spec, Full(), tiny_base, 40_000)
    assert (found.tokens, found.longest, found.batch_size, found.checkpointing) == (30_000, 128, 4, "on")
    assert guessed(spec.model_copy(update={"max_steps": 7}), Full(), tiny_base, 40_000).tokens == 7 * 4 * 128
    assert guessed(TrainingSpec(), Lora(), tiny_base, 40_000).longest == tiny_base.max_positions
    small = TrainingSpec(advanced=AdvancedTraining(optimizer="adamw_8bit"))
    assert (smallest(small).moment_bytes, smallest(TrainingSpec()).moment_bytes) == (2, 8)
    assert smallest(TrainingSpec()).batch_size == 1


def test_the_work_on_prepared_data() -> None:
    from types import SimpleNamespace

    split = SimpleNamespace(sequences=100, tokens=10_000, supervised_tokens=2_500, longest=300)
    other = SimpleNamespace(sequences=10, tokens=1_000, supervised_tokens=250, longest=310)
    data: Any = SimpleNamespace(train=split, validation=other, packing_efficiency=0.8, max_length=512)
    found = workload(TrainingSpec(epochs=2, batch_size=10), Lora(), data)
    assert (found.tokens, found.longest, found.supervised) == (25_000, 310, 0.25)
    assert found.validated == 10 * 1_000
    often = TrainingSpec(epochs=2, batch_size=10, advanced=AdvancedTraining(validate_steps=1))
    assert workload(often, Lora(), data).validated == 20 * 1_000
    packed = workload(TrainingSpec(epochs=2, batch_size=10, packing=True), Lora(), data)
    assert (packed.longest, packed.tokens) == (512, 20_000)
