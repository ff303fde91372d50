import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import HardwarePlan, ModelRef
from tasks.training.job import TrainingJob
from tasks.training.launch import environment
from tasks.training.methods.full import Full
from tasks.training.spec import TrainingSpec
from tests.conftest import ROOT

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


def train_and_kill(
    job: TrainingJob, kills: int, seed: str = "", ranks: Sequence[int] = (), least: int = 1, ends: bool = True
) -> list[int]:
    """Train a job, killed so often at random moments; the step at which each attempt began.

    Args:
        job: what to train.
        kills: how often.
        seed: of the moments.
        ranks: of each attempt in turn; none: as the plan says.
        least: steps before each kill.
        ends: whether it is left alone after the last one.
    """
    job.out.mkdir(parents=True, exist_ok=True)
    job.checkpoints.mkdir(exist_ok=True)
    path = job.checkpoints / "job.json"
    path.write_text(job.model_dump_json())
    variables = {**os.environ, **environment(job, ""), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    words = [str(path), str(kills), seed, json.dumps(list(ranks) or [job.plan.devices]), str(least), "end" if ends else "leave"]
    command = [sys.executable, str(Path(__file__).with_name("killing.py")), *words]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    begun: list[int] = json.loads(done.stdout.splitlines()[-1])
    return begun
