"""The training loss."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def summed_cross_entropy(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Sum of the cross-entropy over supervised tokens, in nats, in fp32.

    A sum, not a mean: micro-batches and ranks differ in supervised tokens, so their means cannot be averaged.

    Args:
        logits: `(batch, length, vocabulary)`; position t predicts token t + 1.
        labels: `(batch, length)`; positions holding -100 do not count.
    """
    import torch.nn.functional as F

    from tasks.training.data import IGNORED

    targets = labels[:, 1:]
    learned = targets != IGNORED
    # Only the rows that count are turned into fp32: with a large vocabulary the logits own the memory.
    return F.cross_entropy(logits[:, :-1][learned].float(), targets[learned], reduction="sum")
