"""Llama-3.1-70B on eight A100 of 80 GB, from its configuration alone, beside what torchtune publishes of it."""

from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import HardwarePlan, ModelRef
from tasks.resources.fitting import Wanted
from tasks.resources.hardware import Machine
from tasks.resources.planning import plan_training
from tasks.resources.spec import ResourceSpec
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tests.tasks.resources.conftest import work

A100 = Machine("cuda", "NVIDIA A100-SXM4-80GB", devices=8, memory_gib=79.0, cores=96, has_bf16=True, host_gib=2000.0)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """As Meta published it, without weights."""
    from transformers import LlamaConfig

    folder: Path = tmp_path_factory.mktemp("llama")
    LlamaConfig(
        vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, max_position_embeddings=131_072,
    ).save_pretrained(folder)  # fmt: skip
    return ModelRef(
        uri="meta-llama/Llama-3.1-70B", location=str(folder), sha256="7" * 64, parameters=70_553_706_496,
        architecture="LlamaForCausalLM", max_positions=131_072, vocabulary=128_256, bytes=141_107_412_992, hidden_size=8192,
        layers=80,
    )  # fmt: skip


def plan(llama: ModelRef, method: Any, **changes: Any) -> HardwarePlan:
    asked = {"batch_size": 16, "micro_batch_size": 2, "longest": 512, "checkpointing": "on", "tokens": 10**7}
    return plan_training(ResourceSpec(), A100, Wanted(llama, method, work(**(asked | changes))), rate=312e12)


def test_lora_is_divided_and_needs_about_as_much_as_published(llama: ModelRef) -> None:
    """torchtune: 27.6 GiB a GPU, micro-batch 2, short rows, activation checkpointing."""
    found = plan(llama, Lora(rank=16))
    assert (found.zero_stage, found.offload) == (3, "none")
    assert found.memory_gib == pytest.approx(27.6, rel=0.15)


def test_qlora_holds_the_whole_model_on_each_device(llama: ModelRef) -> None:
    found = plan(llama, QLora(rank=16))
    assert (found.zero_stage, found.offload) == (2, "none")
    assert 36 < found.memory_gib < 0.9 * 79


def test_full_training_lies_in_main_memory(llama: ModelRef) -> None:
    """torchtune, states and weights offloaded: 13.9 GiB a GPU."""
    found = plan(llama, Full())
    assert (found.zero_stage, found.offload) == (3, "cpu")
    assert found.memory_gib < 27.8
