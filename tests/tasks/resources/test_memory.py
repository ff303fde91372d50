"""Forecasts of memory, worked out by hand for a model of 1000 MiB parameters."""

from collections.abc import Callable

import pytest

from tasks.contracts import ModelRef
from tasks.resources.memory import training_gib, weights_gib

MIB = 2**20
WEIGHTS = 1000 / 1024  # GiB for one byte a weight


@pytest.mark.parametrize(("precision", "bytes_each"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_weights(model_of: Callable[..., ModelRef], precision: str, bytes_each: int) -> None:
    assert weights_gib(model_of(), precision) == pytest.approx(bytes_each * WEIGHTS)


@pytest.mark.parametrize(
    ("precision", "stage", "devices", "weights", "gradients", "states"),
    [
        ("fp32", 0, 1, 4, 4, 8),
        ("bf16", 0, 1, 2, 2, 12),  # two moments and a copy of the weights, all fp32
        ("bf16", 0, 4, 2, 2, 12),
        ("bf16", 1, 4, 2, 2, 3),
        ("bf16", 2, 4, 2, 0.5, 3),
        ("bf16", 3, 4, 0.5, 0.5, 3),
    ],
)
def test_each_stage_divides_one_thing_more(
    model_of: Callable[..., ModelRef], precision: str, stage: int, devices: int, weights: float, gradients: float, states: float
) -> None:
    base = model_of(layers=1, hidden_size=1, vocabulary=1)
    found = training_gib(base, base.parameters, precision, stage, devices, 1, 1, "cuda", True)
    assert found == pytest.approx(1.5 + (weights + gradients + states) * WEIGHTS, rel=1e-6)


def test_frozen_weights_have_neither_gradients_nor_states(model_of: Callable[..., ModelRef]) -> None:
    base = model_of(layers=1, hidden_size=1, vocabulary=1)
    found = training_gib(base, 10 * MIB, "bf16", 0, 1, 1, 1, "cpu", True)
    assert found == pytest.approx(0.6 + 2 * WEIGHTS + (2 + 12) * 10 / 1024, rel=1e-6)


@pytest.mark.parametrize(("checkpointing", "values"), [(False, 34), (True, 2)])
def test_activations_and_logits(model_of: Callable[..., ModelRef], checkpointing: bool, values: int) -> None:
    base = model_of(parameters=1)
    found = training_gib(base, 0, "bf16", 0, 1, 4, 512, "cuda", checkpointing)
    positions = 4 * 512
    by_hand = positions * 16 * 2048 * values + positions * 32_000 * (2 + 8)  # 16 layers of 2048; logits in bf16 and fp32 twice
    assert found == pytest.approx(1.5 + by_hand / 2**30, rel=1e-6)


def test_fp32_doubles_the_activations(model_of: Callable[..., ModelRef]) -> None:
    base = model_of(parameters=1, vocabulary=1)
    half, whole = (training_gib(base, 0, name, 0, 1, 4, 512, "cuda", False) - 1.5 for name in ("bf16", "fp32"))
    assert whole == pytest.approx(2 * half, rel=1e-3)
