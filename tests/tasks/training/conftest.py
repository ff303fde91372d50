import json
import os
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


def build_job(
    base: ModelRef,
    sequences: Path,
    folder: Path,
    method: Any = None,
    plan: HardwarePlan | None = None,
    seed: int = 1,
    **spec: Any,
) -> TrainingJob:
    """A tiny training whose files are in `folder`."""
    return TrainingJob(
        base=base, train_file=sequences / "train.parquet", validation_file=sequences / "validation.parquet",
        method=method or Full(), spec=TrainingSpec(**{"epochs": 1, "batch_size": 16, "learning_rate": 3e-3, **spec}),
        plan=plan or cpu_plan(), seed=seed, pad_token_id=0, checkpoints=folder / "checkpoints", out=folder / "out",
        key=folder.name,
    )  # fmt: skip


@pytest.fixture
def make_job(tiny_base: ModelRef, sequences_folder: Path, tmp_path: Path) -> MakeJob:
    """Jobs of a tiny training, each in a folder of its own."""

    def make(
        name: str = "job", method: Any = None, plan: HardwarePlan | None = None, seed: int = 1, **spec: Any
    ) -> TrainingJob:
        return build_job(tiny_base, sequences_folder, tmp_path / name, method, plan, seed, **spec)

    return make


def losses(job: TrainingJob) -> list[float]:
    """The training losses in the history that a job left."""
    lines = (job.out / "history.jsonl").read_text().splitlines()
    return [point["loss"] for point in map(json.loads, lines) if "loss" in point]


def signal_processes(job: TrainingJob, number: int, launcher: bool = False) -> list[int]:
    """Send `number` to the ranks of a job, or to torchrun instead; the processes that got it."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended while we looked, or is no process
        parts = (b"tasks.training.worker", str(job.checkpoints).encode())
        if (
            all(part in words for part in parts)
            and (b"torch.distributed.run" in words) == launcher
            and b"tasks.shim" not in words
        ):
            found.append(int(folder.name))
            os.kill(int(folder.name), number)
    return found
