"""One attempt at a training: starts it under torchrun and turns what it prints and leaves into a result."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import AttemptError, ChildError, StoppedError
from tasks.process import Event, child_environment, python_module, run_child
from tasks.training import hosts
from tasks.training.failures import Evidence, judge, memory_kills
from tasks.training.heartbeats import BEATS, Patience, Vigil, send
from tasks.training.job import TrainingJob

_LAST_LINES = 40
USUAL_PATIENCE = Patience()


def launch(
    job: TrainingJob,
    *,
    on_event: Callable[[Event], None] = lambda _: None,
    on_line: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], str] = lambda: "",
    log: Path | None = None,
    tag: str = "",
    holds: Sequence[int] = (),
    patience: Patience = USUAL_PATIENCE,
) -> dict[str, Any]:
    """Train `job` in child processes, one a device; what `result.json` says.

    Args:
        job: what to train.
        on_event: called with every event of the ranks.
        on_line: called with every other line.
        should_stop: asked now and then; a sentence stops the training after a checkpoint.
        log: file that gets every line.
        tag: names the processes in their environment, as TUNEFLOW_RUN.
        holds: file descriptors that stay open until the last process has ended.
        patience: when a rank that does nothing any more is given up.

    Raises:
        AttemptError: the attempt ended badly; the error holds the class of the failure and the last lines.
        StoppedError: it was stopped because `should_stop` said so.
    """
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    job.out.mkdir(parents=True, exist_ok=True)
    path = job.checkpoints / "job.json"
    path.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    seen: list[Event] = []
    vigil = Vigil(
        job.checkpoints / BEATS, patience, lambda beats, number: send(beats, number, hosts.remote(job)),
        lambda text: on_event({"kind": "log", "text": text}),
    )  # fmt: skip

    def sort_event(event: Event) -> None:
        vigil.note(event)
        (seen.append if event["kind"] in ("failed", "stopped") else on_event)(event)

    before = memory_kills()
    shutil.rmtree(output_folder(job), ignore_errors=True)
    try:
        with vigil:
            run_child(
                command(job, path), on_event=sort_event, on_line=on_line, should_stop=should_stop, log=log,
                environment=environment(job, tag), holds=holds,
            )  # fmt: skip
    except StoppedError:
        raise
    except ChildError as error:
        raise _judged(error, seen, memory_kills() != before, vigil.found) from error
    finally:
        shutil.rmtree(output_folder(job), ignore_errors=True)
    result: dict[str, Any] = json.loads((job.out / "result.json").read_text(encoding="utf-8"))
    return result


def _judged(error: ChildError, seen: list[Event], kills: bool, hung: str) -> AttemptError:
    failed = tuple(event for event in seen if event["kind"] == "failed")
    stopped = any(event["kind"] == "stopped" for event in seen)
    failure, found = judge(Evidence(error.returncode, error.tail, failed, stopped, kills, hung))
    if any(found == event["text"] for event in failed if event["ours"]):
        return AttemptError(found, failure)  # it says all that is to be said
    of_ranks = [line for line in error.tail if line.startswith("[rank ")]
    return AttemptError(found, failure, (of_ranks or error.tail)[-_LAST_LINES:])


def output_folder(job: TrainingJob) -> Path:
    """Where torchrun keeps what the ranks print until it has passed it on."""
    return job.checkpoints / "output"


def command(job: TrainingJob, path: Path) -> list[str]:
    """The torchrun command. A rendezvous of its own, so that trainings on one machine do not meet."""
    if job.cluster:
        return python_module("tasks.training.rendezvous", str(path))
    return python_module(
        "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={job.plan.devices}", "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0", "--max-restarts=0", "--tee=3", f"--log-dir={output_folder(job)}", "-m",
        "tasks.training.worker", str(path),
    )  # fmt: skip


def environment(job: TrainingJob, tag: str) -> dict[str, str]:
    """Variables of the training processes."""
    variables = {
        **child_environment(job.plan.accelerator, job.plan.threads, tag),
        "TORCH_EXTENSIONS_DIR": str(job.checkpoints / "extensions"),  # its own: a stale lock elsewhere would hang the start
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[rank ${rank}] ",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # or a restart reads the addresses of the attempt before
    }
    if job.plan.backend == "gloo" and not job.cluster and "GLOO_SOCKET_IFNAME" not in os.environ:
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables
