"""The loss from hidden states is that from logits, value and gradients; where it cannot be, logits are used and it is said."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.packing import pack
from tasks.training import losses
from tasks.training.data import collate, collate_packs
from tasks.training.heads import TokenLoss
from tasks.training.losses import summed_cross_entropy, summed_linear_cross_entropy
from tasks.training.methods.lora import Lora
from tasks.training.reading import Sequences
from tests.tasks.training.conftest import cpu_plan
from tests.tasks.training.test_packs import FAMILIES, SIZES, build, llama


def as_engine(model: Any) -> Any:
    """What the loss asks of DeepSpeed's engine."""

    class Engine:
        module, device = model, torch.device("cpu")

        def __call__(self, **inputs: Any) -> Any:
            return model(**inputs)

        def eval(self) -> None:
            model.eval()

        def train(self, mode: bool = True) -> None:
            model.train(mode)

    return Engine()


def tied() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True)


def granite() -> Any:
    """Its logits are divided by a number."""
    from transformers import GraniteConfig, GraniteForCausalLM

    return GraniteForCausalLM, GraniteConfig(**SIZES, logits_scaling=4.0)


def cohere() -> Any:
    """Its logits are multiplied by a number."""
    from transformers import CohereConfig, CohereForCausalLM

    return CohereForCausalLM, CohereConfig(**SIZES, logit_scale=0.25)


def gemma2() -> Any:
    """Its logits are capped."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    return Gemma2ForCausalLM, Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.05)


def phi() -> Any:
    """Its head has a bias."""
    from transformers import PhiConfig, PhiForCausalLM

    model_class, config = PhiForCausalLM, PhiConfig(**{**SIZES, "num_key_value_heads": 4}, partial_rotary_factor=0.5)
    config.embd_pdrop = config.resid_pdrop = config.attention_dropout = 0.0
    return model_class, config


@pytest.fixture
def sequences() -> Sequences:
    generator = np.random.default_rng(0)
    lengths = generator.integers(6, 40, 10)
    tokens = generator.integers(0, 512, lengths.sum()).astype(np.int32)
    supervised = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.int8)
    return Sequences(tokens, supervised, np.concatenate([[0], np.cumsum(lengths)]))


def loss_and_gradients(model: Any, compute: Any) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss = compute()
    loss.backward()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [loss.detach(), *(parameter.grad.clone() for parameter in learned)]


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", [*FAMILIES, tied, granite, cohere, phi])
def test_loss_and_gradients_are_those_of_the_logits(
    family: Any, adapter: bool, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(losses._LOGITS, "cpu", 64 * 512)  # several chunks
    model = build(family, "sdpa")
    with torch.no_grad():  # a bias of nothing would show nothing
        if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
            bias.normal_()
    if adapter:
        model = Lora(rank=4, targets="c_attn" if "gpt2" in family.__name__ else "all-linear").wrap(model)
    loss = TokenLoss(as_engine(model), cpu_plan(), 512)
    assert loss.head is not None
    assert loss.reason.startswith("loss from hidden states")
    ids, mask, labels = collate(sequences, range(10), pad=0)
    ids_of_packs, positions, labels_of_packs = collate_packs(sequences, pack(sequences.lengths, 64, 0, 0), pad=0)
    for inputs, marks in (
        ({"input_ids": ids, "attention_mask": mask}, labels),
        ({"input_ids": ids_of_packs, "position_ids": positions}, labels_of_packs),
    ):
        right = loss_and_gradients(model, lambda: summed_cross_entropy(model(**inputs, use_cache=False).logits, marks))  # noqa: B023
        found = loss_and_gradients(model, lambda: loss(inputs, marks))  # noqa: B023
        assert len(found) == len(right)
        for one, other in zip(found, right, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(loss(inputs, marks), right[0])
    assert model(input_ids=ids).logits.shape[-1] == 512  # the head is a head again


def test_a_model_that_caps_its_logits_keeps_them(sequences: Sequences) -> None:
    model = build(gemma2, "eager")
    loss = TokenLoss(as_engine(model), cpu_plan(), 512)
    assert loss.head is None
    assert "as where logits are capped" in loss.reason
    ids, mask, labels = collate(sequences, range(4), pad=0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    assert loss(inputs, labels) == summed_cross_entropy(model(**inputs, use_cache=False).logits, labels)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"zero_stage": 3, "devices": 2}, "under ZeRO 3"), ({"precision": "fp16", "accelerator": "cuda"}, "in fp16")],
)
def test_where_the_head_cannot_be_taken_apart_it_is_said(changes: dict[str, Any], why: str) -> None:
    loss = TokenLoss(as_engine(build(llama, "sdpa")), cpu_plan(**changes), 512)
    assert loss.head is None
    assert loss.reason.startswith(f"loss from logits: {why}")


def test_a_head_with_an_adapter_is_left_whole() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build(llama, "sdpa"), LoraConfig(target_modules=["lm_head", "q_proj"]))
    loss = TokenLoss(as_engine(model), cpu_plan(), 512)
    assert loss.head is None
    assert "and not a plain linear layer" in loss.reason


def test_weights_that_are_not_finite_are_left_to_the_first_step() -> None:
    model = build(llama, "sdpa")
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = float("nan")
    assert TokenLoss(as_engine(model), cpu_plan(), 512).reason == "loss from logits: that of a trial is nan"


def test_the_training_mode_is_as_before() -> None:
    for training in (True, False):
        model = build(llama, "sdpa").train(training)
        TokenLoss(as_engine(model), cpu_plan(), 512)
        assert model.training is training


def test_tokens_of_a_learned_prompt_are_not_predicted() -> None:
    """A method may put vectors before the text: there are more logits than labels."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 9, 8, generator=generator)
    head = torch.nn.Linear(8, 16)
    labels = torch.randint(0, 16, (2, 6), generator=generator)
    right = summed_cross_entropy(head(hidden[:, 3:]), labels)
    assert summed_cross_entropy(head(hidden), labels) == right
    torch.testing.assert_close(summed_linear_cross_entropy(hidden, head, labels), right)


def test_a_batch_without_supervised_tokens_costs_nothing_and_has_no_gradient() -> None:
    hidden = torch.randn(2, 5, 8, requires_grad=True)
    head = torch.nn.Linear(8, 16)
    loss = summed_linear_cross_entropy(hidden, head, torch.full((2, 5), -100))
    loss.backward()
    assert loss == 0
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert hidden.grad.abs().max() == head.weight.grad.abs().max() == 0


def test_fewer_logits_stand_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor made on the way is that of a chunk, and not of the batch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest[0] = max(largest[0], result.numel())
            return result

    monkeypatch.setitem(losses._LOGITS, "cpu", 64 * 4096)
    hidden, head = torch.randn(1, 1025, 16, requires_grad=True), torch.nn.Linear(16, 4096, bias=False)
    labels = torch.randint(0, 4096, (1, 1025))
    sizes = SimpleNamespace()
    for name, compute in (
        ("logits", lambda: summed_cross_entropy(head(hidden), labels)),
        ("chunks", lambda: summed_linear_cross_entropy(hidden, head, labels)),
    ):
        largest[0] = 0
        with Watch():
            compute().backward()
        setattr(sizes, name, largest[0])
    assert sizes.logits >= 1024 * 4096
    assert sizes.chunks == 64 * 4096
