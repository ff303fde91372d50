"""Starts a training under torchrun and turns what it prints and leaves into a result."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.errors import ChildError, TrainingError
from tasks.process import Event, child_environment, python_module, run_child
from tasks.training.job import TrainingJob


def launch(
    job: TrainingJob,
    *,
    on_event: Callable[[Event], None] = lambda _: None,
    on_line: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], str] = lambda: "",
    log: Path | None = None,
    tag: str = "",
) -> dict[str, Any]:
    """Train `job` in child processes, one a device; what `result.json` says.

    Args:
        job: what to train.
        on_event: called with every event of the ranks.
        on_line: called with every other line.
        should_stop: asked now and then; a sentence stops the training after a checkpoint.
        log: file that gets every line.
        tag: names the processes in their environment, as TUNEFLOW_RUN.

    Raises:
        TrainingError: the training cannot go on, for the reason it gave.
        ChildError: a process ended badly; its last lines are in the message.
    """
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    job.out.mkdir(parents=True, exist_ok=True)
    path = job.checkpoints / "job.json"
    path.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    failures: list[Event] = []

    def sort_event(event: Event) -> None:
        (failures.append if event["kind"] == "failed" else on_event)(event)

    try:
        run_child(
            command(job, path), on_event=sort_event, on_line=on_line, should_stop=should_stop, log=log,
            environment=environment(job, tag),
        )  # fmt: skip
    except ChildError as error:
        if failures:
            raise TrainingError(failures[0]["text"]) from error
        raise
    result: dict[str, Any] = json.loads((job.out / "result.json").read_text(encoding="utf-8"))
    return result


def command(job: TrainingJob, path: Path) -> list[str]:
    """The torchrun command. A rendezvous of its own, so that trainings on one machine do not meet."""
    return python_module(
        "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={job.plan.devices}", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", "--max-restarts=0", "-m", "tasks.training.worker", str(path),
    )  # fmt: skip


def environment(job: TrainingJob, tag: str) -> dict[str, str]:
    """Variables of the training processes."""
    variables = {
        **child_environment(job.plan.accelerator, job.plan.threads, tag),
        "TORCH_EXTENSIONS_DIR": str(job.checkpoints / "extensions"),  # its own: a stale lock elsewhere would hang the start
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # or a restart reads the addresses of the attempt before
    }
    if job.plan.backend == "gloo" and "GLOO_SOCKET_IFNAME" not in os.environ:
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables
