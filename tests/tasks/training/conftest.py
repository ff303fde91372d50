from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import HardwarePlan, ModelRef
from tasks.training.job import TrainingJob
from tasks.training.methods.full import Full
from tasks.training.spec import TrainingSpec

MakeJob = Callable[..., TrainingJob]


def cpu_plan(**changes: Any) -> HardwarePlan:
    defaults: dict[str, Any] = {
        "accelerator": "cpu", "device_name": "test", "devices": 1, "backend": "gloo", "threads": 1, "zero_stage": 0,
        "micro_batch": 16, "accumulation": 1, "precision": "fp32", "activation_checkpointing": False, "memory_gib": 0.0,
        "hours": 0.0, "cost_usd": 0.0, "energy_kwh": 0.0, "reasons": (),
    }  # fmt: skip
    return HardwarePlan(**{**defaults, **changes})


@pytest.fixture
def make_job(tiny_base: ModelRef, sequences_folder: Path, tmp_path: Path) -> MakeJob:
    """Jobs of a tiny training, each in a folder of its own."""

    def make(
        name: str = "job", method: Any = None, plan: HardwarePlan | None = None, seed: int = 1, **spec: Any
    ) -> TrainingJob:
        return TrainingJob(
            base=tiny_base, train_file=sequences_folder / "train.parquet",
            validation_file=sequences_folder / "validation.parquet", method=method or Full(),
            spec=TrainingSpec(**{"epochs": 1, "batch_size": 16, "learning_rate": 3e-3, **spec}),
            plan=plan or cpu_plan(), seed=seed, pad_token_id=0, checkpoints=tmp_path / name / "checkpoints",
            out=tmp_path / name / "out", key=name,
        )  # fmt: skip

    return make
