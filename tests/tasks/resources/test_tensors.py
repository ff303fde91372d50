"""Layers divided among devices: what is refused, and what a plan makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.errors import RequestError
from tasks.resources import tracing
from tasks.resources.fitting import Place, _ways, find_fit
from tasks.resources.memory import GIB, Setup, needed
from tasks.resources.planning import plan_training
from tasks.resources.probe import wants_probe
from tasks.resources.spec import ResourceSpec
from tasks.resources.tensors import demand_groups, demand_heads
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tests.tasks.resources.conftest import EIGHT, MIB, Some, footprint, wanted

EACH = 1000 * MIB / GIB


@pytest.mark.parametrize(
    ("spec", "method", "told"),
    [
        (
            {"tensor_parallel": 3},
            Full(),
            "resources.tensor_parallel is 3, but 8 device(s) of a machine train, which make no whole groups of 3. Use a number "
            "that divides 8, or other resources.devices.",
        ),
        (
            {"tensor_parallel": 4, "devices": 2, "nodes": 2},
            Full(),
            "resources.tensor_parallel is 4, but 2 device(s) of a machine train, which make no whole groups of 4; a group does "
            "not reach over machines. Use a number that divides 2, or other resources.devices.",
        ),
        (
            {"tensor_parallel": 2},
            Lora(),
            "resources.tensor_parallel is 2, but DeepSpeed does not divide the layers of an adapter, and method.kind is lora. "
            "Use method.kind: full, or leave resources.tensor_parallel out.",
        ),
        (
            {"tensor_parallel": 2, "zero_stage": 3},
            Full(),
            "resources.tensor_parallel is 2, and resources.zero_stage 3 divides the same weights once more. Use 0, 1, 2 or "
            "auto.",
        ),
        (
            {"tensor_parallel": 2, "offload": "cpu"},
            Full(),
            "resources.tensor_parallel is 2, which does not go with resources.offload cpu. Use none or auto.",
        ),
    ],
)
def test_what_does_not_go_together(spec: dict[str, Any], method: Any, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        demand_groups(ResourceSpec(**spec), method, EIGHT)
    assert str(caught.value) == told


def test_in_16_bits_a_stage_is_needed_that_gets_the_norm_right() -> None:
    asked = ResourceSpec(tensor_parallel=2, zero_stage=0)
    with pytest.raises(
        RequestError, match=r"with resources\.zero_stage 0 DeepSpeed gets the norm of the gradient wrong in bf16"
    ):
        demand_groups(asked, Full(), EIGHT)
    demand_groups(asked.model_copy(update={"precision": "fp32"}), Full(), EIGHT)


def test_all_of_it_is_told_at_once() -> None:
    with pytest.raises(RequestError, match=r"no whole groups of 3.*method\.kind is qlora.*zero_stage 3 divides"):
        demand_groups(ResourceSpec(tensor_parallel=3, zero_stage=3), QLora(), EIGHT)


def test_without_it_and_with_whole_groups_nothing_is_refused(tiny_base: ModelRef) -> None:
    demand_groups(ResourceSpec(devices=3), Lora(), EIGHT)
    demand_groups(ResourceSpec(tensor_parallel=4, hosts=["a", "b"]), Full(), EIGHT)
    demand_heads(ResourceSpec(), tiny_base)
    demand_heads(ResourceSpec(tensor_parallel=4), tiny_base)


def saved(folder: Path, config: Any) -> ModelRef:
    config.save_pretrained(folder)
    return ModelRef(
        uri="models/some", location=str(folder), sha256="0" * 64, parameters=1, architecture=type(config).__name__,
        max_positions=64, vocabulary=64, bytes=4, hidden_size=48, layers=1,
    )  # fmt: skip


def test_a_model_whose_heads_cannot_be_dealt_out_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    sizes = {"hidden_size": 48, "intermediate_size": 99, "num_attention_heads": 6, "num_key_value_heads": 3}
    base = saved(tmp_path, LlamaConfig(**sizes))
    demand_heads(ResourceSpec(tensor_parallel=3), base)
    with pytest.raises(RequestError) as caught:
        demand_heads(ResourceSpec(tensor_parallel=2), base)
    assert str(caught.value) == (
        "resources.tensor_parallel is 2, by which num_key_value_heads 3, intermediate_size 99 of models/some cannot be "
        "divided. Use a number that divides num_attention_heads 6, num_key_value_heads 3, intermediate_size 99."
    )


def test_a_model_without_a_plan_that_deepspeed_follows_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, MixtralConfig

    with pytest.raises(RequestError, match=r"transformers has no plan of how the layers of GPT2Config are divided\."):
        demand_heads(ResourceSpec(tensor_parallel=2), saved(tmp_path / "gpt2", GPT2Config()))
    with pytest.raises(RequestError, match=r"MixtralConfig are divided in ways that DeepSpeed does not know \("):
        demand_heads(ResourceSpec(tensor_parallel=2), saved(tmp_path / "mixtral", MixtralConfig()))


@pytest.mark.parametrize("shared", [True, False])
def test_the_layers_that_are_divided_are_counted(tmp_path: Path, shared: bool) -> None:
    from transformers import LlamaConfig

    base = saved(
        tmp_path,
        LlamaConfig(
            hidden_size=48, intermediate_size=96, num_attention_heads=4, num_hidden_layers=2, vocab_size=64,
            tie_word_embeddings=shared, architectures=["LlamaForCausalLM"],
        ),
    )  # fmt: skip
    found = tracing.count_weights(tracing.build(base, Full().wrap, "fp32", False))
    layers = 2 * (4 * 48 * 48 + 3 * 48 * 96)
    assert found.divided == layers + (0 if shared else 48 * 64)
    assert found.whole_head is shared


def test_a_device_holds_its_part_of_linear_layers_and_the_others_whole() -> None:
    found = footprint(trainable=1000 * MIB, whole=4 * 1000 * MIB)
    found.weights = replace(found.weights, divided=800 * MIB)
    got = needed(found, Setup(accelerator="cuda", precision="fp32", devices=8, tensor_parallel=4, accumulation=2))
    assert got.weights == pytest.approx(4 * 0.4 * EACH)
    assert got.gradients == pytest.approx(4 * 0.4 * EACH)
    assert got.optimizer == pytest.approx(8 * 0.4 * EACH)
    two = needed(found, Setup(accelerator="cuda", precision="fp32", devices=8, tensor_parallel=4, accumulation=2, zero_stage=2))
    assert two.optimizer == pytest.approx(8 * 0.4 / 2 * EACH)  # among two groups


def test_the_plan_counts_groups_and_says_what_is_divided(tiny_base: ModelRef) -> None:
    spec = ResourceSpec(tensor_parallel=2)
    found = plan_training(spec, EIGHT, wanted(tiny_base, Full(), longest=64), rate=1e12)
    assert (found.devices, found.tensor_parallel, found.zero_stage) == (8, 2, 2)
    assert (found.micro_batch, found.accumulation) == (16, 1)  # 64 rows among 4 groups
    assert any(
        reason == "tensor parallelism 2: as asked; 4 group(s) of 2 devices have rows of their own, and each device 1/2 of "
        "94,208 weights of linear layers; embeddings, norms and the head are whole on each"
        for reason in found.reasons
    )  # fmt: skip
    one = plan_training(spec.model_copy(update={"devices": 2}), EIGHT, wanted(tiny_base, Full(), longest=64), rate=1e12)
    assert (one.zero_stage, one.micro_batch) == (1, 64)
    assert any(reason.startswith("ZeRO 1: in 16 bits") for reason in one.reasons)
    spec = spec.model_copy(update={"devices": 2, "precision": "fp32"})
    one = plan_training(spec, EIGHT, wanted(tiny_base, Full(), longest=64), rate=1e12)
    assert one.zero_stage == 0
    assert "ZeRO 0: one group of devices has nothing more to divide" in one.reasons


def test_less_memory_is_needed_and_zero_3_is_left_out() -> None:
    place = Place(EIGHT, 8, 1, "fp32")
    base = ModelRef(
        uri="models/some", location="/models/some", sha256="0" * 64, parameters=4000 * MIB, architecture="LlamaForCausalLM",
        max_positions=4096, vocabulary=32_000, bytes=2**31, hidden_size=2048, layers=16,
    )  # fmt: skip
    work = wanted(base, Some(learned=base.parameters), longest=128, micro_batch_size=1)
    ways = [find_fit(ResourceSpec(tensor_parallel=size, zero_stage=0), work, place)[1] for size in (1, 2, 4)]
    assert ways[0] > 1.5 * ways[1] > 1.5 * ways[2]
    tried = [{way.zero_stage for way in _ways(ResourceSpec(tensor_parallel=size), work, place)} for size in (1, 2, 8)]
    assert tried == [{2, 3}, {2}, {0}]
    assert not list(_ways(ResourceSpec(tensor_parallel=3), work, place))


def test_no_probe_is_made() -> None:
    assert wants_probe(ResourceSpec(probe="on"), EIGHT, Setup(devices=2, tensor_parallel=2), 0) == (
        False, "no probe: one device alone does not hold the weights",
    )  # fmt: skip
