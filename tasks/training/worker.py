"""One rank: `torchrun -m tasks.training.worker JOB.json`. It knows no Prefect: it reads a job, writes files, prints events."""

import io
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.devices import peak_memory_gib
from tasks.errors import TuneflowError
from tasks.process import emit, hush
from tasks.shim import die_with_parent
from tasks.training.failures import class_of
from tasks.training.heartbeats import BEATS, beating
from tasks.training.job import TrainingJob

if TYPE_CHECKING:
    from tasks.training.loop import Loop
    from tasks.training.reading import Sequences


def main(arguments: list[str]) -> int:
    """Train the job in the file `arguments[0]`; the exit status."""
    die_with_parent()
    hush()
    print_in_order()
    job = TrainingJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    job = job.at(int(os.environ.get("WORLD_SIZE", job.plan.devices)))  # as many ranks as nodes joined
    try:
        train(job)
    except Exception as error:
        ours, rank = isinstance(error, TuneflowError), int(os.environ.get("RANK", "0"))
        if not ours:
            traceback.print_exc()  # raised further, torch's hook would put the rank before each line once more
        emit("failed", error=type(error).__name__, text=str(error), failure=class_of(error), rank=rank, ours=ours)
        return 1
    return 0


def print_in_order() -> None:
    """Write each line at once, and errors to where the rest goes.

    torchrun puts the rank before each piece that it reads, and reads two streams in no order: a traceback would be lost in the
    lines before it.
    """
    os.dup2(1, 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)


def train(job: TrainingJob) -> None:
    """Train `job` on this rank and, on rank 0, write the model and `result.json` to its folder."""
    import torch.distributed as dist

    from tasks.training import determinism, engine
    from tasks.training.loop import BEST, Loop
    from tasks.training.schedule import learning_rate
    from tasks.training.signals import weights

    bits = determinism.settle(job.spec, job.plan)
    engine.start_processes(job.plan)
    peak, _ = learning_rate(job.spec, job.method.adapter, job.rate_factor)
    config = engine.configuration(job.plan, job.spec)
    with engine.announced(config):
        started = engine.start(_model(job), config, job.plan, job.spec, peak)
    loop = Loop(job, started, _sequences(job, job.train_file), _sequences(job, job.validation_file))
    resumed = loop.resume()
    fill = loop.feed.fill(job.plan)
    if loop.rank == 0:
        emit("started", total=loop.total, resumed_from=resumed, rows=len(loop.feed), fill=fill)
        emit("progress", done=resumed, total=loop.total)
        if bits:
            emit("note", text=bits)
        if job.spec.packing:
            emit("note", text=_packed(loop, fill))
    with beating(job.checkpoints / BEATS, loop.rank, loop.world, loop.engine):
        progress = loop.run()
    if not len(loop.validation):
        loop.save_model(job.checkpoints / "best")
    if loop.rank == 0:
        best = job.checkpoints / "best"
        shutil.copytree(best, job.out / "model", dirs_exist_ok=True, ignore=shutil.ignore_patterns(BEST))
        trainable = sum(weights(parameter) for parameter in loop.engine.module.parameters() if parameter.requires_grad)
        facts = {"resumed_from": resumed, "trainable_parameters": trainable, "rows": len(loop.feed), "fill": fill}
        _write_result(
            job, progress, {**facts, "order_sha256": loop.feed.order(progress.step), "details": loop.driver.details()}
        )
    dist.barrier()
    dist.destroy_process_group()  # without it the process aborts after success


def _model(job: TrainingJob) -> Any:
    """The model that learns. The seed is set before the adapter is built, since its weights are drawn then."""
    from transformers import set_seed

    from tasks.models import dtype_of, recompute_activations
    from tasks.training import kernels

    model = job.method.load(job.base, dtype_of(job.plan.precision))
    kernels.fit(model, job.plan)
    set_seed(job.seed)  # not before: loading may draw numbers too, and more of them where ranks hold parts
    if job.plan.activation_checkpointing:
        recompute_activations(model)
    wrapped = job.method.wrap(model)
    wrapped.train()
    return wrapped


def _sequences(job: TrainingJob, path: Path) -> "Sequences":
    """The sequences of a split; what is too large for memory is laid out on disk by the first rank alone."""
    import torch.distributed as dist

    from tasks.training.reading import read_sequences

    scratch, first = job.checkpoints / "sequences", dist.get_rank() == 0
    found = read_sequences(path, scratch) if first else None
    dist.barrier()
    return found if found is not None else read_sequences(path, scratch, check=False)


def _packed(loop: "Loop", fill: float) -> str:
    """How full the packs are, beside what padding would be."""
    from tasks.training.feeding import Feed

    job, feed = loop.job, loop.feed
    alone = Feed(loop.train, job.spec.batch_size, job.seed, job.pad_token_id).fill(job.plan)
    return (
        f"{len(loop.train)} sequences in {len(feed)} packs of at most {feed.pack_length} tokens: {fill:.1%} of the positions "
        f"computed on hold a token; without packing it would be {alone:.1%}"
    )


def _write_result(job: TrainingJob, progress: Any, facts: dict[str, Any]) -> None:
    losses = [point["loss"] for point in progress.history if "loss" in point]
    result = {
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": progress.seconds,
        "best_step": progress.best_step,
        "validation_loss": progress.best_loss if progress.best_loss < float("inf") else None,
        "train_loss": sum(losses[-5:]) / len(losses[-5:]),
        "peak_gib": peak_memory_gib(job.plan.accelerator),
        **facts,
    }
    lines = "".join(json.dumps(point) + "\n" for point in progress.history)
    (job.out / "history.jsonl").write_text(lines, encoding="utf-8")
    (job.out / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
