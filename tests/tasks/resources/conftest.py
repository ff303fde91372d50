"""Machines and models of which only the facts exist."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.resources.hardware import Machine

CPU = Machine("cpu", "Some CPU", devices=1, memory_gib=16.0, cores=8, has_bf16=False)
EIGHT = Machine("cuda", "NVIDIA H100", devices=8, memory_gib=80.0, cores=96, has_bf16=True)
OLD = Machine("cuda", "Tesla T4", devices=1, memory_gib=15.0, cores=4, has_bf16=False)


@pytest.fixture(scope="session")
def model_of() -> Callable[..., ModelRef]:
    """Models of a size: by default one of 1000 x 2**20 parameters, as Llama has them."""

    def make(**changes: Any) -> ModelRef:
        facts: dict[str, Any] = {
            "uri": "models/some", "location": "/models/some", "sha256": "0" * 64, "parameters": 1000 * 2**20,
            "architecture": "LlamaForCausalLM", "max_positions": 4096, "vocabulary": 32_000, "bytes": 2**31,
            "hidden_size": 2048, "layers": 16,
        }  # fmt: skip
        return ModelRef(**(facts | changes))

    return make
