"""How long a training takes, what it costs and how much energy it needs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.contracts import ModelRef
from tasks.resources.spec import ResourceSpec

_WATTS = {"cpu": 65.0, "cuda": 700.0}
_CPU_SIZE = 512
_CUDA_SIZE = 4096
_EFFICIENCY = 0.5  # share of the matrix units' speed that training reaches


@dataclass(frozen=True)
class Cost:
    """Forecast of one training."""

    hours: float
    cost_usd: float
    energy_kwh: float


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

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    matrix = torch.ones(_CUDA_SIZE, _CUDA_SIZE, device="cuda", dtype=dtype)

    def multiply() -> None:
        _discard(matrix @ matrix)
        torch.cuda.synchronize()

    return multiply


def _discard(_result: object) -> None:
    """Only the time counts."""


def forecast(
    base: ModelRef, trainable: int, tokens: int, devices: int, rate: float, spec: ResourceSpec, accelerator: str
) -> Cost:
    """Cost of training on `tokens` tokens: 6 operations a weight and token, 4 where frozen (Kaplan et al. 2020, 2.1)."""
    frozen = max(0, base.parameters - trainable)
    operations = tokens * (6 * trainable + 4 * frozen)
    hours = operations / (rate * _EFFICIENCY * devices) / 3600
    watts = spec.watts_per_device or _WATTS[accelerator]
    return Cost(hours, hours * devices * spec.price_per_device_hour, hours * devices * watts / 1000)
