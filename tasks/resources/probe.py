"""A few real passes before a training: which micro-batch fits, which is the fastest, and how fast it is.

`python -m tasks.resources.probe JOB.json` makes passes of growing micro-batches, until memory is short or they get slower, and
reports each. It is a child process: what runs out of memory there harms nothing.
"""

import gc
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from tasks.contracts import ModelRef, Value
from tasks.devices import peak_memory_gib
from tasks.process import emit, hush
from tasks.resources.fitting import Wanted
from tasks.resources.hardware import Machine
from tasks.resources.memory import Setup
from tasks.resources.planning import Trial
from tasks.resources.spec import ResourceSpec
from tasks.shim import die_with_parent

_PASSES = 3  # of each micro-batch, of which the fastest counts
_SLOWER = 0.97  # of the best speed, below which larger micro-batches are not tried
_SAME = 0.98  # of the best speed counts as the best
_LOGITS = 2**23  # numbers of logits at once


class ProbeJob(Value):
    """What is tried. The method is named by its module and class, since it is another stage's."""

    base: ModelRef
    method_class: str
    method: dict[str, Any]
    accelerator: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16", "fp16"]
    threads: int
    length: int
    supervised: float
    checkpointing: bool
    steps: bool  # whether the optimizer's step is made: it lies whole on this device
    share: int  # rows that a device has in one optimizer step
    limit_gib: float


class Point(Value):
    """What passes of one micro-batch showed."""

    rows: int
    tokens_per_second: float
    peak_gib: float


def asks_for_probe(spec: ResourceSpec, machine: Machine) -> bool:
    """Whether the request wants one where it can be made: auto does so on GPUs."""
    return spec.probe == "on" or (spec.probe == "auto" and machine.accelerator == "cuda")


def wants_probe(spec: ResourceSpec, machine: Machine, setup: Setup, asked_rows: int) -> tuple[bool, str]:
    """Whether to probe, and why not."""
    if not asks_for_probe(spec, machine):
        return False, "no probe: as asked" if spec.probe == "off" else ""
    if setup.zero_stage == 3 or setup.offload != "none" or setup.tensor_parallel > 1:
        return False, "no probe: one device alone does not hold the weights"
    if asked_rows:
        return False, "no probe: the micro-batch is asked for"
    return True, ""


def job_of(wanted: Wanted, setup: Setup, threads: int, limit_gib: float) -> ProbeJob:
    """What is to be tried of a plan."""
    kind = type(wanted.method)
    return ProbeJob(
        base=wanted.base, method_class=f"{kind.__module__}:{kind.__qualname__}", method=wanted.method.model_dump(mode="json"),
        accelerator=setup.accelerator, precision=setup.precision, threads=threads, length=wanted.work.longest,
        supervised=wanted.work.supervised, checkpointing=setup.checkpointing, steps=setup.zero_stage == 0, share=setup.share,
        limit_gib=limit_gib,
    )  # fmt: skip


def choose(points: Sequence[Point], limit_gib: float) -> Trial | None:
    """The smallest micro-batch that is about as fast as any that fits; None where none fits."""
    fit = [point for point in points if point.peak_gib <= limit_gib]
    if not fit:
        return None
    best = max(point.tokens_per_second for point in fit)
    chosen = min((point for point in fit if point.tokens_per_second >= _SAME * best), key=lambda point: point.rows)
    tried = ", ".join(f"{point.rows}: {point.tokens_per_second:,.0f}" for point in points)
    return Trial(chosen.rows, chosen.tokens_per_second, chosen.peak_gib, f"the fastest tried, by tokens a second ({tried})")


def main(arguments: list[str]) -> int:
    """Probe the job in the file `arguments[0]`; the exit status."""
    die_with_parent()
    hush()
    measure(ProbeJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8")))
    return 0


def measure(
    job: ProbeJob,
    tell: Callable[[Point], None] = lambda point: emit("probe", **point.model_dump()),
    sizes: Sequence[int] = (),
) -> None:
    """Make passes of 1, 2, 4... rows up to a device's share, or of the `sizes`; tell of each."""
    import torch

    torch.set_num_threads(job.threads)
    model, optimizer = _prepared(job)
    best, before = 0.0, peak_memory_gib(job.accelerator)
    for rows in sizes or doubled(job.share):
        try:
            point = _tried(job, model, optimizer, rows)
        except (torch.OutOfMemoryError, MemoryError):
            return
        tell(point)
        # What the rows of this pass added, they add again when they are twice as many.
        next_peak = point.peak_gib + 2 * max(0.0, point.peak_gib - before)
        if point.tokens_per_second < _SLOWER * best or next_peak > job.limit_gib:
            return
        best, before = max(best, point.tokens_per_second), point.peak_gib


def doubled(most: int) -> list[int]:
    """1, 2, 4... and `most` itself.

    >>> doubled(1), doubled(6), doubled(8)
    ([1], [1, 2, 4, 6], [1, 2, 4, 8])
    """
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(min(2 * sizes[-1], most))
    return sizes


def _prepared(job: ProbeJob) -> tuple[Any, Any]:
    import torch

    from tasks.models import dtype_of, recompute_activations

    module, _, name = job.method_class.partition(":")
    method = getattr(importlib.import_module(module), name).model_validate(job.method)
    model = method.load(job.base, dtype_of(job.precision))
    if job.checkpointing:
        recompute_activations(model)
    model = method.wrap(model)
    if job.accelerator == "cuda":
        model = model.to("cuda")
    model.train()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(learned, lr=1e-6) if job.steps else None


def _tried(job: ProbeJob, model: Any, optimizer: Any, rows: int) -> Point:
    """The fastest of some optimizer steps, as tokens a second, and the peak so far."""
    import torch

    gc.collect()
    device = "cuda" if job.accelerator == "cuda" else "cpu"
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, job.base.vocabulary, (rows, job.length), generator=generator).to(device)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[1:, -1:] = 0  # rows differ, so that attention is given a mask
    in_pass, in_step = [], [0.0]
    for _ in range(_PASSES):
        started = _now(device)
        _loss(model, ids, mask, job.supervised).backward()
        in_pass.append(_now(device) - started)
        if optimizer is not None:
            started = _now(device)
            optimizer.step()
            in_step.append(_now(device) - started)
        model.zero_grad(set_to_none=True)
    passes = -(-job.share // rows)
    seconds = passes * min(in_pass) + min(in_step[1:] or in_step)
    return Point(rows=rows, tokens_per_second=job.share * job.length / seconds, peak_gib=peak_memory_gib(device))


def _loss(model: Any, ids: Any, mask: Any, supervised: float) -> Any:
    """The summed cross-entropy of the share that is learned, some rows' logits at a time."""
    import torch.nn.functional as F
    from torch.utils.checkpoint import checkpoint

    head = model.get_output_embeddings()
    head.forward = lambda hidden: hidden
    try:
        hidden = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        del head.forward
    rows, goals = hidden[:, :-1].reshape(-1, hidden.shape[-1]), ids[:, 1:].reshape(-1)
    count = max(1, round(supervised * len(rows)))
    at_once = max(64, _LOGITS // head.out_features)

    def part(values: Any, targets: Any) -> Any:
        return F.cross_entropy(head(values).float(), targets, reduction="sum")

    total = 0.0
    for at in range(0, count, at_once):
        end = min(count, at + at_once)
        total = total + checkpoint(part, rows[at:end], goals[at:end], use_reentrant=False)
    return total


def _now(device: str) -> float:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
