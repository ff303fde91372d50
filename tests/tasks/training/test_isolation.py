"""Which models may be trained on packs: asked of each, not looked up."""

from typing import Any

import pytest
import torch

from tasks.errors import TrainingError
from tasks.training.isolation import demand_isolation
from tests.tasks.training.test_packs import FAMILIES, build, llama


def ask(model: Any, name: str = "Some", limit: int = 64, flat: bool = False) -> None:
    with torch.no_grad():
        demand_isolation(model.eval(), name, 128, limit, flat, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_follow_positions_may(family: Any, attention: str, dtype: torch.dtype) -> None:
    model = build(family, attention).to(dtype)
    for flat in (False, True):
        ask(model, flat=flat)
    ask(model, limit=8)


def bloom() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM, BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4)


def opt() -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
    return OPTForCausalLM, OPTConfig(vocab_size=128, max_position_embeddings=64, **sizes)


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM, MambaConfig(vocab_size=128, hidden_size=32, num_hidden_layers=2, state_size=8)


def convolution() -> Any:
    """Only the first tokens of a document see the end of the one before."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Lfm2ForCausalLM, Lfm2Config(vocab_size=128, num_hidden_layers=2, layer_types=["conv", "full_attention"], **sizes)


REFUSED = [(family, dtype) for family in (bloom, opt, convolution) for dtype in (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize(("family", "dtype"), [*REFUSED, (mamba, torch.float32)])
def test_models_whose_documents_see_each_other_may_not(family: Any, dtype: torch.dtype) -> None:
    model = build(family, "eager").to(dtype)
    with pytest.raises(
        TrainingError, match=r"Some does not keep packed documents apart.*Set training\.packing: false"
    ) as caught:
        ask(model)
    assert caught.value.failure == "other"


def test_a_model_without_positions_may_not() -> None:
    class Plain(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> None:
            raise NotImplementedError

    with pytest.raises(TrainingError, match="Some cannot be trained with packing: it takes no position_ids"):
        ask(Plain())


def test_weights_that_are_not_finite_are_left_to_the_first_step() -> None:
    model = build(llama, "sdpa")
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = float("nan")
    ask(model)
