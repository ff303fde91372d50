from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.resources.fitting import Wanted
from tasks.resources.footprint import Moment, Weights
from tasks.resources.hardware import Machine
from tasks.resources.spec import Workload
from tasks.training.methods.full import Full

CPU = Machine("cpu", "Some CPU", devices=1, memory_gib=16.0, cores=8, has_bf16=False, host_gib=16.0)
EIGHT = Machine("cuda", "NVIDIA H100", devices=8, memory_gib=80.0, cores=96, has_bf16=True, host_gib=1000.0)
OLD = Machine("cuda", "Tesla T4", devices=1, memory_gib=15.0, cores=4, has_bf16=False, host_gib=16.0)
MIB = 2**20


class Some(Full):
    """A method that learns as many weights as it is told; its models are not there to be traced."""

    learned: int = MIB
    highest: int = 3

    def trainable_parameters(self, base: ModelRef) -> int:
        return self.learned

    def most_divided(self) -> Any:
        return self.highest, "it cannot be divided"


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


def work(**changes: Any) -> Workload:
    """64 rows of 512 tokens a step."""
    return Workload(**({"batch_size": 64, "longest": 512, "tokens": 10**6} | changes))


def wanted(base: ModelRef, method: Any = None, **changes: Any) -> Wanted:
    return Wanted(base, method or Some(), work(**changes))


def footprint(
    trainable: int = 0,
    frozen: int = 0,
    linear: int = 0,
    largest_linear: int = 0,
    block: int = 0,
    transient: int = 0,
    whole: int = 0,
) -> Any:
    """A footprint of known numbers: the same for every micro-batch."""
    weights = Weights(trainable, frozen, linear, largest_linear, block, trainable + frozen)
    return SimpleNamespace(weights=weights, at=lambda *_: Moment(transient, whole), doubt="")
