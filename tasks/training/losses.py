"""The training loss: a sum over supervised tokens, from logits or from hidden states."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.training.data import IGNORED

_LOGITS = {"cpu": 2**23, "cuda": 2**26}  # that stand in memory at once: 32 and 256 MiB in fp32


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the cross-entropy over supervised tokens, in nats, in fp32.

    A sum, not a mean: micro-batches and ranks differ in supervised tokens, so their means cannot be averaged.

    Args:
        logits: `(batch, length, vocabulary)`; position t predicts token t + 1.
        labels: `(batch, length)`; positions holding -100 do not count.
    """
    rows, targets = _learned(logits, labels)
    # Only the rows that count are turned into fp32: with a large vocabulary the logits own the memory.
    return F.cross_entropy(rows.float(), targets, reduction="sum")


def summed_linear_cross_entropy(hidden: Tensor, head: torch.nn.Linear, labels: Tensor) -> Tensor:
    """The same as `summed_cross_entropy(head(hidden), labels)`, without the logits of more than some rows in memory.

    Args:
        hidden: `(batch, length, hidden size)`; position t predicts token t + 1.
        head: from hidden states to logits.
        labels: `(batch, length)`; positions holding -100 do not count, and cost nothing.
    """
    rows, targets = _learned(hidden, labels)
    at_once = max(64, _LOGITS.get(hidden.device.type, _LOGITS["cuda"]) // head.out_features)
    total: Tensor = _LinearCrossEntropy.apply(rows, head.weight, head.bias, targets, at_once)  # type: ignore[no-untyped-call]
    return total


def _learned(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of `values` that predict a supervised token, and those tokens."""
    targets = labels[:, 1:]
    learned = targets != IGNORED
    # Tokens that a method put before the text, such as a learned prompt, have no labels.
    return values[:, -labels.shape[1] : -1][learned], targets[learned]


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a linear layer's outputs, some rows at a time, with its gradients computed along the way.

    d loss / d logits = softmax(logits) - one-hot(target), so that both gradients follow while the logits of a chunk are at hand
    (Hsu et al. 2024, Liger Kernel, section 3.2). Computed backwards again, as checkpointing does, it would cost a third more.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, at_once: int) -> Tensor:
        """Sum over rows, in fp32; `rows` is `(rows, hidden size)`, `weight` `(vocabulary, hidden size)`."""
        wants = ctx.needs_input_grad
        of_rows = torch.empty_like(rows) if wants[0] else None
        of_weight = torch.zeros_like(weight) if wants[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and wants[2] else None
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        for at in range(0, len(rows), at_once):
            part, goals = rows[at : at + at_once], targets[at : at + at_once, None]
            logits = F.linear(part, weight, bias).float()
            normalizer = logits.logsumexp(-1, keepdim=True)
            total += (normalizer - logits.gather(1, goals)).sum()
            if not any(wants[:3]):
                continue
            slope = logits.sub_(normalizer).exp_().scatter_add_(1, goals, torch.full_like(normalizer, -1.0)).to(rows.dtype)
            if of_rows is not None:
                torch.mm(slope, weight, out=of_rows[at : at + at_once])
            if of_weight is not None:
                of_weight.addmm_(slope.T, part)
            if of_bias is not None:
                of_bias += slope.sum(0)
        ctx.save_for_backward(of_rows, of_weight, of_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients found on the way forward, times that of the sum."""
        scaled = (None if found is None else found * slopes[0].to(found.dtype) for found in ctx.saved_tensors)
        return (*scaled, None, None)
