"""Passes that are made without memory, against arithmetic that can be done by hand and against real ones."""

from dataclasses import replace
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.resources.footprint import Footprint, Shape, estimated, traced, weights_of
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tests.tasks.resources.conftest import Some

# 512 x 64 words; four attention matrices of 64 x 64 and three of 64 x 160 in each of two layers; five norms of 64
PARAMETERS = 512 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 160) + 5 * 64
LORA = 2 * 4 * (4 * (64 + 64) + 3 * (64 + 160))  # rank 4
SHAPE = Shape(4, 128)


def test_weights_are_counted_without_one(tiny_base: ModelRef) -> None:
    full, adapted = weights_of(tiny_base, Full(), "fp32"), weights_of(tiny_base, Lora(rank=4), "bf16")
    assert (full.trainable, full.frozen, full.linear) == (PARAMETERS, 0, 0)
    assert (adapted.trainable, adapted.frozen) == (LORA, PARAMETERS)
    assert adapted.linear == 2 * (4 * 64 * 64 + 3 * 64 * 160)  # not the head, which is the embeddings
    assert adapted.largest_linear == 64 * 160
    assert full.block == 4 * 64 * 64 + 3 * 64 * 160 + 2 * 64
    assert full.multiplied == 2 * (4 * 64 * 64 + 3 * 64 * 160) + 512 * 64


def test_more_rows_take_more_in_a_line(tiny_base: ModelRef) -> None:
    sizes = [traced(tiny_base, Lora(rank=4), "fp32", replace(SHAPE, rows=rows), False).transient for rows in (4, 8, 16)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.02)


def test_what_takes_less(tiny_base: ModelRef) -> None:
    def size(method: Any = None, precision: str = "fp32", again: bool = False, **changes: Any) -> int:
        return traced(tiny_base, method or Lora(rank=4), precision, replace(SHAPE, **changes), again).transient

    whole = size()
    assert size(again=True) < 0.7 * whole
    assert size(precision="bf16") < 0.75 * whole
    assert size(length=64) < 0.6 * whole
    assert size(masked=True) > whole
    assert size(from_hidden=False) > size(from_hidden=False, supervised=0.1) > size(supervised=0.1)
    assert size(Full()) != whole


def test_gradients_of_all_weights_are_there_in_the_end(tiny_base: ModelRef) -> None:
    moment = traced(tiny_base, Full(), "fp32", replace(SHAPE, rows=1, length=8), False)
    assert moment.whole >= 4 * PARAMETERS
    assert moment.transient < moment.whole < moment.transient + 4 * PARAMETERS


@pytest.mark.parametrize("method", [Full(), Lora(rank=4)], ids=["full", "lora"])
def test_a_real_pass_has_the_tensors_that_were_forecast(tiny_base: ModelRef, method: Any) -> None:
    """The same counting, over real tensors on the CPU with its own kernels."""
    import torch

    from tasks.models import load_model
    from tasks.resources.tracing import Storages

    shape = replace(SHAPE, from_hidden=False)
    model = method.wrap(load_model(tiny_base.location, torch.float32))
    model.train()
    with Storages(model) as seen:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(seen.keep)
        ids = torch.zeros(shape.rows, shape.length, dtype=torch.long)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].reshape(-1, 512)
        rows = torch.arange(len(logits))
        torch.nn.functional.cross_entropy(logits[rows].float(), rows % 512, reduction="sum").backward()
    forecast = traced(tiny_base, method, "fp32", shape, False)
    assert forecast.transient == pytest.approx(seen.most_transient, rel=0.1)
    assert forecast.whole == pytest.approx(seen.most, rel=0.1)


def test_what_cannot_be_traced_is_worked_out_and_says_so(model_of: Any) -> None:
    base = model_of()
    found = Footprint(base, Some(), "bf16")
    moment = found.at(4, 512, False, True, "cuda")
    positions = 4 * 512
    assert moment.transient == positions * 16 * 2048 * 34 + min(positions * 32_000, 2**26) * 6
    assert found.doubt.startswith("full on LlamaForCausalLM cannot be traced (OSError: ")
    assert (found.weights.trainable, found.weights.frozen) == (2**20, 999 * 2**20)
    again = estimated(base, 0, Shape(4, 512), "bf16", True)
    assert again.transient == positions * 2048 * (2 * 16 + 34) + 2**23 * 6
