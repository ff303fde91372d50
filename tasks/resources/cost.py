"""How long a training takes, what it costs, how much energy it needs and how much CO2 that makes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.contracts import ModelRef
from tasks.resources.footprint import Weights
from tasks.resources.offers import PriceList
from tasks.resources.spec import ResourceSpec

_WATTS = {"cpu": 65.0, "cuda": 700.0}
_CPU_SIZE = 512
_CUDA_SIZE = 4096
# Share of the matrix units' speed that training reaches: for a CPU of what was measured, for a GPU of what its maker states.
EFFICIENCY = {"cpu": 0.7, "cuda": 0.4}
_OFFLOADED = 0.5  # of the speed is left where states lie in main memory (Rajbhandari et al. 2021, section 8)


@dataclass(frozen=True)
class Work:
    """What is computed.

    Attributes:
        tokens: positions of the whole training.
        validated: positions of all validations, which have no backward pass.
        length: tokens of a row, for attention.
    """

    tokens: int
    validated: int = 0
    length: int = 0


@dataclass(frozen=True)
class Cost:
    """Forecast of one training."""

    hours: float
    cost_usd: float
    energy_kwh: float
    carbon_kg: float


def measure_rate(accelerator: str, precision: str) -> float:
    """Floating-point operations a second of one device, by a few matrix products of some milliseconds."""
    multiply = _cuda_product(precision) if accelerator == "cuda" else _cpu_product()
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - started)
    size = _CUDA_SIZE if accelerator == "cuda" else _CPU_SIZE
    return 2 * size**3 / best


def _cpu_product() -> Callable[[], None]:
    import numpy as np

    matrix = np.ones((_CPU_SIZE, _CPU_SIZE), dtype=np.float32)
    return lambda: _discard(matrix @ matrix)


def _cuda_product(precision: str) -> Callable[[], None]:
    import torch

    from tasks.models import dtype_of

    matrix = torch.ones(_CUDA_SIZE, _CUDA_SIZE, device="cuda", dtype=dtype_of(precision))

    def multiply() -> None:
        _discard(matrix @ matrix)
        torch.cuda.synchronize()

    return multiply


def _discard(_result: object) -> None:
    """Only the time counts."""


def operations(base: ModelRef, weights: Weights, work: Work, checkpointing: bool = False) -> float:
    """Floating-point operations of a whole training.

    For each weight that a token is multiplied with: 2 forward, 2 for the activations' gradient, 2 for the weight's own where it
    learns (Kaplan et al. 2020, section 2.1), and 2 more where activations are computed twice. Attention: 6 for each layer, unit
    and token of the row, forward and backward (Chowdhery et al. 2022, appendix B, half of it since nothing looks ahead).
    """
    learned = min(weights.trainable, weights.multiplied)
    frozen = weights.multiplied - learned
    attention = base.layers * base.hidden_size * work.length
    forward = 2.0 * weights.multiplied + 2 * attention
    one = forward + 4.0 * learned + 2.0 * frozen + 4 * attention + (forward if checkpointing else 0.0)
    return work.tokens * one + work.validated * forward


def hours_of(total: float, rate: float, accelerator: str, devices: int, offloaded: bool = False) -> float:
    """Hours for so many operations at a device's rate."""
    return total / (rate * EFFICIENCY[accelerator] * (_OFFLOADED if offloaded else 1.0) * devices) / 3600


def price(hours: float, devices: int, spec: ResourceSpec, accelerator: str, device_name: str, listed: PriceList) -> Cost:
    """Money, energy and CO2 of so many hours.

    Raises:
        RequestError: the region is unknown.
    """
    offer = listed.of(device_name) if accelerator == "cuda" else None
    watts = spec.watts_per_device or (offer.watts if offer else _WATTS[accelerator])
    energy = hours * devices * watts / 1000
    return Cost(hours, hours * devices * spec.price_per_device_hour, energy, energy * listed.grams(spec.region) / 1000)
