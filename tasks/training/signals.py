"""What can be seen of a training while it runs: speed, use of the device, memory, the gradient's size and the time left."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tasks.contracts import HardwarePlan
from tasks.devices import peak_memory_gib
from tasks.models import dtype_of
from tasks.training.heads import language_model


class Signals:
    """Counts what this rank does between two reports.

    Args:
        engine: the engine around the model that learns.
        plan: where it learns.
        width: the model's hidden size.
        from_hidden: whether the head computes supervised tokens alone.
    """

    def __init__(self, engine: Any, plan: HardwarePlan, width: int, from_hidden: bool) -> None:
        self.engine, self.plan, self.from_hidden = engine, plan, from_hidden
        self.body, self.head = operations(engine.module)
        self.peak = matmul_rate(engine.device, dtype_of(plan.precision), width)
        self._begun, self._done = time.monotonic(), 0
        self._start_window()

    def _start_window(self) -> None:
        self._since, self._tokens, self._learned, self._steps, self._forward = time.monotonic(), 0, 0, 0, 0.0

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` returns; its seconds are this rank's own work, since no rank waits for another in it."""
        started = time.perf_counter()
        result = compute()
        self._forward += time.perf_counter() - started
        return result

    def step(self, tokens: int, learned: int) -> None:
        """Count an optimizer step of all ranks over `tokens` tokens, `learned` of them supervised."""
        self._tokens += tokens
        self._learned += learned
        self._steps += 1
        self._done += 1

    def seconds_left(self, steps: int) -> float | None:
        """What `steps` more steps take at the pace since the start, validations and checkpoints included; None at the start."""
        return (time.monotonic() - self._begun) / self._done * steps if self._done else None

    def report(self) -> dict[str, float]:
        """Speed and memory since the last report; every rank must ask, and each gets the same."""
        seconds = max(1e-9, time.monotonic() - self._since)
        mine = torch.tensor([peak_memory_gib(self.plan.accelerator), self._forward / max(1, self._steps)], dtype=torch.float64)
        every = _gathered(mine, self.engine.device)
        head_tokens = self._learned if self.from_hidden else self._tokens
        computed = self._tokens * self.body + head_tokens * self.head
        values = {
            "tokens_per_second": self._tokens / seconds,
            "supervised_tokens_per_second": self._learned / seconds,
            "mfu": computed / seconds / (self.peak * len(every)),
            "step_seconds": seconds / max(1, self._steps),
            "memory_gib": max(float(row[0]) for row in every),
        }
        if len(every) > 1:
            for rank, row in enumerate(every):
                values |= {f"rank_{rank}.memory_gib": float(row[0]), f"rank_{rank}.forward_seconds": float(row[1])}
        self._start_window()
        return values


def operations(model: Any) -> tuple[int, int]:
    """Floating-point operations a token, in the body and in the head: 6 a weight that learns, 4 a frozen one.

    Forward 2 and backward 4, of which the 2 for the weight's own gradient are not computed where it is frozen (Kaplan et al.
    2020, 2.1). An embedding that is only looked up computes nothing; attention between tokens is left out.
    """
    causal = language_model(model)
    output = causal.get_output_embeddings() if causal is not None else None
    looked_up = causal.get_input_embeddings() if causal is not None else None
    of_head = {id(parameter) for parameter in output.parameters()} if output is not None else set()
    skipped = {id(parameter) for parameter in looked_up.parameters()} if looked_up is not None else set()
    body = head = 0
    for parameter in model.parameters():
        each = (6 if parameter.requires_grad else 4) * weights(parameter)
        if id(parameter) in of_head:
            head += each
        elif id(parameter) not in skipped:
            body += each
    return body, head


def weights(parameter: Any) -> int:
    """Weights in a parameter: those of all ranks where it is divided, and of a packed 4-bit one those that it stands for."""
    packed = getattr(parameter, "quant_state", None)
    if packed is not None and getattr(packed, "shape", None) is not None:
        return int(torch.Size(packed.shape).numel())
    if divided := getattr(parameter, "ds_autotp_universal_checkpoint_meta", None):
        return int(torch.Size(divided["logical_shape"]).numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def matmul_rate(device: Any, dtype: torch.dtype, width: int) -> float:
    """Floating-point operations a second of one device, in products of the model's shapes; the best of five."""
    on_gpu = torch.device(device).type == "cuda"
    rows, width = (4096, max(width, 4096)) if on_gpu else (256, min(width, 1024))
    left, right = (torch.ones(*shape, dtype=dtype, device=device) for shape in ((rows, width), (width, 4 * width)))
    best = float("inf")
    for _ in range(5):
        _wait(on_gpu)
        started = time.perf_counter()
        torch.mm(left, right)
        _wait(on_gpu)
        best = min(best, time.perf_counter() - started)
    return 8 * rows * width**2 / best


def gradient_norm(engine: Any) -> float | None:
    """The norm of the whole gradient before the engine's step, where the engine does not compute it; None where it does."""
    if hasattr(engine.optimizer, "_global_grad_norm"):
        return None
    whole: list[Tensor] = []
    parts: list[Tensor] = []
    for parameter in engine.module.parameters():
        if parameter.grad is not None:
            (parts if getattr(parameter, "tensor_model_parallel", False) else whole).append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(whole) if whole else torch.zeros(())
    if parts:  # of layers that the ranks of a group divide among them
        squares = torch.nn.utils.get_total_norm(parts) ** 2
        dist.all_reduce(squares, group=engine.mpu.get_tensor_model_parallel_group())
        norm = (norm**2 + squares).sqrt()
    return float(norm)


def _wait(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def _gathered(mine: Tensor, device: Any) -> list[Tensor]:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [mine]
    every = [torch.zeros_like(mine, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine.to(device))
    return [each.cpu() for each in every]
