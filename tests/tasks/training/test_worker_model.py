"""The model that a rank trains, as the plan and the seed have it."""

import warnings
from typing import Any

import pytest
import torch

from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tasks.training.worker import _model
from tests.tasks.training.conftest import MakeJob, cpu_plan


@pytest.mark.parametrize("method", [Lora(rank=4), QLora(rank=4)], ids=["lora", "qlora"])
@pytest.mark.parametrize("again", [False, True])
def test_activations_are_computed_twice_where_the_plan_says_so(make_job: MakeJob, method: Any, again: bool) -> None:
    model = _model(make_job(method=method, plan=cpu_plan(activation_checkpointing=again)))
    passes = []
    layer = model.get_base_model().model.layers[0]
    layer.self_attn.register_forward_hook(lambda *_: passes.append(1))
    model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits.sum().backward()
    assert len(passes) == (2 if again else 1)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    assert learned
    assert all(weight.grad is not None for weight in learned)


def test_the_seed_draws_the_adapter(make_job: MakeJob) -> None:
    first, same, other = (_model(make_job(method=Lora(rank=4), seed=seed)).state_dict() for seed in (1, 1, 2))
    names = [name for name in first if "lora_A" in name]
    assert all(first[name].equal(same[name]) for name in names)
    assert not any(first[name].equal(other[name]) for name in names)


def test_an_adapter_is_put_around_a_model_without_a_warning(make_job: MakeJob) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        _model(make_job(method=Lora(rank=4)))
