"""Trainings that go on with another number of ranks."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.errors import TrainingError
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.spec import AdvancedTraining
from tasks.training.universal import convert
from tests.tasks.training.conftest import build_job, cpu_plan, losses, train_and_kill

pytestmark = pytest.mark.slow

SPEC: dict[str, Any] = {"max_steps": 30, "advanced": AdvancedTraining(checkpoint_steps=4, validate_steps=1000)}


@pytest.fixture(scope="module")
def undisturbed(
    tiny_base: ModelRef, sequences_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """The losses of trainings by one rank, by method."""
    jobs = {
        method.kind: build_job(tiny_base, sequences_folder, tmp_path_factory.mktemp("whole"), method, **SPEC)
        for method in (Lora(rank=4), Full())
    }
    for job in jobs.values():
        train_and_kill(job, 0)
    return {kind: losses(job) for kind, job in jobs.items()}


@pytest.mark.parametrize(
    "method, stage, before, after",
    [
        (Lora(rank=4), 0, 2, 1),
        (Lora(rank=4), 2, 1, 2),
        (Full(), 1, 2, 1),
        (Full(), 2, 2, 1),
        (Full(), 3, 2, 1),
        (Full(), 3, 1, 2),
    ],
)
def test_the_loss_goes_on_with_another_number_of_ranks(
    make_job: Any, undisturbed: dict[str, list[float]], method: Any, stage: int, before: int, after: int
) -> None:
    plan = cpu_plan(devices=before, micro_batch=8, accumulation=2 // before, zero_stage=stage)
    job = make_job("moved", method, plan, **SPEC)
    begun = train_and_kill(job, 1, ranks=(before, after), least=4)
    assert begun[0] == 0
    assert 0 < begun[1] < 30
    assert losses(job) == pytest.approx(undisturbed[method.kind], rel=1e-4)


def test_moments_in_8_bits_that_are_not_divided_go_on_with_another_number_of_ranks(make_job: Any) -> None:
    """Each rank holds all of them, so that there is nothing to convert."""
    spec = {
        **SPEC,
        "max_steps": 15,
        "advanced": AdvancedTraining(checkpoint_steps=4, validate_steps=1000, optimizer="adamw_8bit"),
    }
    whole, moved = (
        make_job(name, Lora(rank=4), cpu_plan(devices=ranks, micro_batch=8, accumulation=2 // ranks), **spec)
        for name, ranks in (("whole", 1), ("moved", 2))
    )
    train_and_kill(whole, 0)
    begun = train_and_kill(moved, 1, ranks=(2, 1), least=4)
    assert 0 < begun[1] < 15
    assert losses(moved) == pytest.approx(losses(whole), rel=1e-4)


def test_what_cannot_be_converted_is_told_with_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "step-00000003" / "state").mkdir(parents=True)
    with pytest.raises(
        TrainingError, match=r"step-00000003 was written by another number of ranks and cannot be converted"
    ) as e:
        convert(tmp_path / "step-00000003", "state")
    assert "  | " in str(e.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
