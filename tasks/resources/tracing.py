"""Bytes that a forward and a backward pass hold, found by making them on the meta device: real operations, no memory, no data.

It imports torch, so it is imported where a forecast is made, and replaces functions of libraries while it traces.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tasks.contracts import ModelRef
from tasks.models import dtype_of, recompute_activations, without_weights
from tasks.resources.footprint import Moment, Shape, Weights
from tasks.resources.tensors import divided_layers

_real_attention = F.scaled_dot_product_attention


class Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that come to be while it is active; gradients apart, from the moment they are kept."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.own = {id(tensor.untyped_storage()) for tensor in (*model.parameters(), *model.buffers())}
        self.transient = self.gradients = self.most_transient = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._note, result)
        return result

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.own or key in self.known:
            return tensor

        def gone(_: object) -> None:
            self.known.pop(key)
            self.transient -= size

        self.known[key] = weakref.ref(storage, gone), size
        self.transient += size
        self.most_transient = max(self.most_transient, self.transient)
        self.most = max(self.most, self.transient + self.gradients)
        return tensor

    def keep(self, parameter: torch.Tensor) -> None:
        """A gradient is whole: from now on it counts with the gradients, and its storage is let go."""
        assert parameter.grad is not None
        self.gradients += parameter.grad.untyped_storage().nbytes()
        parameter.grad = None
        self.most = max(self.most, self.transient + self.gradients)


def trace(model: Any, shape: Shape) -> Moment:
    """The most bytes of activations and gradients in one forward and backward pass over a micro-batch."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _stand_ins(), Storages(model) as seen:
        hooks = [parameter.register_post_accumulate_grad_hook(seen.keep) for parameter in learned]
        ids = torch.zeros(shape.rows, shape.length, dtype=torch.long, device="meta")
        inputs: dict[str, Any] = {"input_ids": ids}
        if shape.masked:
            inputs["attention_mask"] = torch.ones(shape.rows, 1, shape.length, shape.length, dtype=torch.bool, device="meta")
        torch.autograd.backward(_loss(model, inputs, shape))
        for hook in hooks:
            hook.remove()
    return Moment(transient=seen.most_transient, whole=seen.most)


def _loss(model: Any, inputs: dict[str, Any], shape: Shape) -> torch.Tensor:
    """What the training loss computes: from hidden states, some rows' logits at a time, or from all logits at once."""
    head = model.get_output_embeddings()
    count = max(1, round(shape.supervised * shape.rows * max(1, shape.length - 1)))
    chosen = torch.zeros(count, dtype=torch.long, device="meta")
    if shape.from_hidden and type(head) is torch.nn.Linear:
        setattr(head, "forward", lambda hidden: hidden)  # noqa: B010
        try:
            hidden = model(**inputs, use_cache=False).logits
        finally:
            del head.forward
        rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])[chosen]
        return _Chunked.apply(rows, head.weight, max(64, shape.logits // head.out_features))  # type: ignore[no-any-return, no-untyped-call]
    logits = model(**inputs, use_cache=False).logits
    rows = logits[:, :-1].reshape(-1, logits.shape[-1])[chosen]
    return F.cross_entropy(rows.float(), chosen, reduction="sum")


class _Chunked(torch.autograd.Function):
    """The tensors of a cross-entropy whose gradients are computed along the way forward, some rows' logits at a time."""

    @staticmethod
    def forward(context: Any, rows: torch.Tensor, weight: torch.Tensor, at_once: int) -> torch.Tensor:
        """The sum."""
        of_weight = torch.zeros_like(weight) if context.needs_input_grad[1] else None
        of_rows = torch.empty_like(rows)
        logits = F.linear(rows[:at_once], weight).float()
        logits.to(rows.dtype)
        context.save_for_backward(of_rows, of_weight)
        return torch.zeros((), device="meta")

    @staticmethod
    def backward(context: Any, *_: torch.Tensor) -> Any:
        """Both gradients, scaled."""
        return (*(None if found is None else found * 1.0 for found in context.saved_tensors), None)


class _Attention(torch.autograd.Function):
    """Attention as fused kernels do it: queries, keys, values, the result and one number a row are kept, never all pairs."""

    @staticmethod
    def forward(context: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> Any:
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device="meta")
        kept = () if mask is None else (torch.empty(mask.shape, dtype=query.dtype, device="meta"),)
        context.save_for_backward(query, key, value, result, sums, *kept)
        return result

    @staticmethod
    def backward(context: Any, *_: torch.Tensor) -> Any:
        query, key, value, *_ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _fused(query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, **named: Any) -> Any:
    if query.device.type != "meta":  # of another thread
        return _real_attention(query, key, value, attn_mask, *rest, **named)
    return _Attention.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]


@contextmanager
def _stand_ins() -> Iterator[None]:
    """What asks for values, which a meta tensor has not, and what the meta device would compute with all pairs of tokens."""
    from transformers import masking_utils

    places: list[tuple[Any, str, Any]] = [
        (F, "scaled_dot_product_attention", _fused),
        (masking_utils, "find_packed_sequence_indices", lambda _: None),
    ]
    before = [getattr(place, name) for place, name, _ in places]
    for place, name, stand_in in places:
        setattr(place, name, stand_in)
    try:
        yield
    finally:
        for (place, name, _), function in zip(places, before, strict=True):
            setattr(place, name, function)


def build(base: ModelRef, wrap: Callable[[Any], Any], precision: str, checkpointing: bool) -> Any:
    """The model that learns, on the meta device."""
    dtype = dtype_of(precision)
    model: Any = without_weights(base.location, base.trust_remote_code, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    if checkpointing:
        recompute_activations(model)
    with torch.device("meta"):
        model = wrap(model)
        model = model.to(dtype)  # as the engine does with an adapter in fp32
    model.train()
    return model


def count_weights(model: Any) -> Weights:
    """Numbers of weights by kind; blocks are the repeated layers, of which ZeRO 3 gathers one after the other."""
    parameters = list(model.parameters())
    head = model.get_output_embeddings()
    layers = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    linear = [each.weight.numel() for each in layers if not each.weight.requires_grad]
    stacks = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each)]
    divided = divided_layers(model)
    blocks = [sum(part.numel() for part in block.parameters()) for stack in stacks for block in stack]
    return Weights(
        trainable=sum(each.numel() for each in parameters if each.requires_grad),
        frozen=sum(each.numel() for each in parameters if not each.requires_grad),
        linear=sum(linear),
        largest_linear=max(linear, default=0),
        block=max(blocks, default=0),
        multiplied=sum(each.weight.numel() for each in model.modules() if isinstance(each, torch.nn.Linear)),
        divided=sum(each.weight.numel() for each in divided),
        whole_head=head not in divided,
    )
