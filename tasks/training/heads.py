"""How a model's loss is computed: from hidden states where that is the same as from logits, else from logits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tasks.contracts import HardwarePlan
from tasks.training.losses import summed_cross_entropy, summed_linear_cross_entropy

_TOKENS = 12  # of each of the two rows that are tried
_AGREE = {"fp32": 1e-4, "bf16": 2e-2}  # share of the loss; bf16 has 8 bits for a number


class TokenLoss:
    """The summed loss of a batch.

    Attributes:
        head: from hidden states to logits; None: the model's own logits are used.
        reason: the sentence that says which, and why.
    """

    def __init__(self, engine: Any, plan: HardwarePlan, vocabulary: int) -> None:
        self.engine = engine
        self.head, why = _usable_head(engine.module, plan)
        if self.head is not None:
            why = self._probe(vocabulary, _AGREE[plan.precision])
        if why:
            self.head = None
            self.reason = f"loss from logits: {why}"
        else:
            self.reason = "loss from hidden states: the logits of supervised tokens alone are computed, some at a time"

    def __call__(self, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Sum of the cross-entropy over supervised tokens, in nats."""
        device = self.engine.device
        there = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
        labels = labels.to(device, non_blocking=True)
        if self.head is None:
            return summed_cross_entropy(self.engine(**there, use_cache=False).logits, labels)
        with _passed_through(self.head):
            hidden = self.engine(**there, use_cache=False).logits
        return summed_linear_cross_entropy(hidden, self.head, labels)

    def _probe(self, vocabulary: int, limit: float) -> str:
        """Why the loss from hidden states cannot be taken: a model may bend its logits; "" where it can."""
        generator, head = torch.Generator().manual_seed(0), self.head
        ids = torch.randint(0, vocabulary, (2, _TOKENS), generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        training = self.engine.module.training
        self.engine.eval()
        try:
            with torch.no_grad():
                self.head = None
                right = float(self(inputs, ids))
                self.head = head
                found = float(self(inputs, ids))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            return f"hidden states gave no loss ({str(error).splitlines()[0]})"
        finally:
            self.engine.train(training)
        if not math.isfinite(right):
            return f"that of a trial is {right}"
        if not abs(found - right) <= limit * abs(right):
            return f"that from hidden states differs, {found:.6g} and not {right:.6g}, as where logits are capped"
        return ""


def language_model(model: Any) -> Any:
    """The model of transformers within what a method made of it; None where there is none."""
    from transformers import PreTrainedModel

    return next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)


def _usable_head(model: Any, plan: HardwarePlan) -> tuple[nn.Linear | None, str]:
    """The layer that makes logits, or why it cannot be taken apart from the model."""
    if plan.zero_stage == 3:
        return None, "under ZeRO 3 the head's weights are whole in the model's own pass alone"
    if plan.precision == "fp16":
        return None, "in fp16 gradients would lose digits before the loss is scaled"
    causal = language_model(model)
    head = causal.get_output_embeddings() if causal is not None else None
    if type(head) is not nn.Linear or "forward" in vars(head):
        return None, f"the head is {type(head).__name__}, and not a plain linear layer"
    return head, ""


@contextmanager
def _passed_through(head: nn.Linear) -> Iterator[None]:
    """Let the head return what it is given, so that what the model calls logits are hidden states."""
    setattr(head, "forward", lambda hidden: hidden)  # noqa: B010
    try:
        yield
    finally:
        del head.forward
