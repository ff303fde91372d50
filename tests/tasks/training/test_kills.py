"""Trainings killed with SIGKILL at random moments: they end with the same bits as one that was left alone.

TUNEFLOW_TEST_KILLS says how often each is killed.
"""

import os
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from tasks.models import weights_digest
from tasks.training import checkpoint
from tasks.training.methods import Method
from tasks.training.spec import AdvancedTraining
from tests.tasks.training.conftest import cpu_plan, losses, train_and_kill

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("TUNEFLOW_TEST_KILLS", "2"))
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "dropout": 0.1},
    "qlora": {"rank": 4, "dropout": 0.1},
    "adalora": {"rank": 2, "initial_rank": 4, "dropout": 0.1},
    "custom": {"config": "{peft_type: IA3, target_modules: [k_proj, down_proj], feedforward_modules: [down_proj]}"},
}
KINDS = [method.model_fields["kind"].default for method in get_args(get_args(Method)[0])]
OFTEN = AdvancedTraining(checkpoint_steps=3, validate_steps=1000)


def method_of(kind: str) -> Any:
    return TypeAdapter(Method).validate_python({"kind": kind, **SETTINGS.get(kind, {})})


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_killed_again_and_again_ends_with_the_same_bits(make_job: Any, kind: str, ranks: int) -> None:
    plan = cpu_plan(devices=ranks, micro_batch=16 // ranks, zero_stage=2 if ranks > 1 else 0)
    spec: dict[str, Any] = {"max_steps": 20 * KILLS, "advanced": OFTEN}
    whole, broken = (make_job(name, method_of(kind), plan, **spec) for name in ("whole", "broken"))
    train_and_kill(whole, 0)
    begun = train_and_kill(broken, KILLS, f"{kind} {ranks}", least=4)  # the checkpoint of step 3 is whole by then
    assert len(begun) == KILLS + 1
    assert begun == sorted(begun)
    assert begun[-1] > 0
    assert weights_digest(broken.out / "model") == weights_digest(whole.out / "model")
    assert losses(broken) == losses(whole)


@pytest.mark.parametrize("harm", ["damaged", "half-written"])
def test_from_a_checkpoint_that_is_not_whole_training_goes_back_to_the_one_before(make_job: Any, harm: str) -> None:
    spec: dict[str, Any] = {"max_steps": 40, "advanced": OFTEN}
    whole, broken = (make_job(name, method_of("lora"), **spec) for name in ("whole", "broken"))
    train_and_kill(whole, 0)
    train_and_kill(broken, 1, harm, least=8, ends=False)
    before, newest = sorted(path.parent for path in broken.checkpoints.glob("step-*/complete.json"))
    {"damaged": damage, "half-written": lambda folder: (folder / "complete.json").unlink()}[harm](newest)
    assert train_and_kill(broken, 0) == [int(before.name.removeprefix("step-"))]
    assert weights_digest(broken.out / "model") == weights_digest(whole.out / "model")
    assert losses(broken) == losses(whole)


def damage(folder: Path) -> None:
    """Change one bit in the middle of the largest file."""
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert checkpoint.newest(folder.parent)[1]
