"""Forecasts of memory, worked out by hand for a model of 1000 MiB parameters."""

from typing import Any

import pytest

from tasks.resources.memory import GIB, NF4_BYTES, Setup, host_gib, needed, stored_bytes
from tests.tasks.resources.conftest import MIB, footprint

EACH = 1000 * MIB / GIB  # GiB for one byte a weight


def parts(found: Any, **setup: Any) -> Any:
    return needed(found, Setup(**({"accelerator": "cuda", "length": 8} | setup)))


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
    precision: Any, stage: Any, devices: int, weights: float, gradients: float, states: float
) -> None:
    found = footprint(trainable=1000 * MIB, whole=4 * 1000 * MIB)
    got = parts(found, precision=precision, zero_stage=stage, devices=devices, accumulation=2)
    assert got.weights == pytest.approx(weights * EACH)
    assert got.gradients == pytest.approx(gradients * EACH)
    assert got.optimizer == pytest.approx(states * EACH)
    assert got.libraries == 2.0
    assert got.total == pytest.approx(sum(vars(got).values()))


def test_frozen_weights_have_neither_gradients_nor_states() -> None:
    got = parts(footprint(trainable=10 * MIB, frozen=1000 * MIB), precision="bf16")
    assert got.weights == pytest.approx(2 * 1010 * MIB / GIB)
    assert got.optimizer == pytest.approx(12 * 10 * MIB / GIB)


def test_moments_in_8_bits_take_a_quarter() -> None:
    assert parts(footprint(trainable=1000 * MIB), moment_bytes=2).optimizer == pytest.approx(2 * EACH)


def test_accumulation_keeps_gradients_while_activations_live() -> None:
    """One pass: gradients come as activations go. Several: they are there from the pass before."""
    found = footprint(trainable=1000 * MIB, transient=6 * 1000 * MIB, whole=7 * 1000 * MIB)
    one, two = (parts(found, accumulation=count) for count in (1, 2))
    assert one.gradients + one.activations == pytest.approx(7 * EACH)
    assert two.gradients + two.activations == pytest.approx(10 * EACH)


def test_offloaded_states_take_main_memory_and_under_zero_3_the_weights_too() -> None:
    found = footprint(trainable=1000 * MIB)
    at_two, at_three = (Setup(accelerator="cuda", precision="bf16", zero_stage=stage, offload="cpu") for stage in (2, 3))
    assert (needed(found, at_two).optimizer, needed(found, at_two).weights) == (0, pytest.approx(2 * EACH))
    assert (needed(found, at_three).optimizer, needed(found, at_three).weights) == (0, 0)
    assert host_gib(found, at_two, 1) == pytest.approx(16 * EACH)
    assert host_gib(found, at_three, 1) == pytest.approx(18 * EACH)
    assert host_gib(found, Setup(zero_stage=3, offload="nvme", precision="bf16"), 1) == pytest.approx(2 * EACH)
    assert host_gib(found, Setup(), 1) == 0


def test_four_bits_and_their_constants() -> None:
    found = footprint(frozen=1100 * MIB, linear=1000 * MIB, largest_linear=10 * MIB)
    whole, quantized = (Setup(accelerator="cuda", precision="bf16", quantized=value) for value in (False, True))
    assert pytest.approx(0.5 + 0.127 / 8, rel=1e-3) == NF4_BYTES  # 0.127 bits, as the paper says
    assert stored_bytes(found, whole) == 2200 * MIB
    assert stored_bytes(found, quantized) == pytest.approx(1000 * MIB * NF4_BYTES + 200 * MIB)
    assert needed(found, quantized).buffers - needed(found, whole).buffers == pytest.approx(20 * MIB / GIB)


def test_buckets_and_gathered_weights() -> None:
    found = footprint(trainable=MIB, frozen=10_000 * MIB, block=100 * MIB)
    plain, two, three = (parts(found, precision="bf16", zero_stage=stage, devices=8) for stage in (0, 2, 3))
    assert plain.buffers == pytest.approx(0.05 * plain.activations)
    assert two.buffers - 0.05 * two.activations == pytest.approx(2 * 5e8 / GIB)
    assert three.buffers - 0.05 * three.activations == pytest.approx(2 * (5e8 + 1e9 + 5e7) / GIB)


def test_the_sentence_names_the_largest_first() -> None:
    said = parts(footprint(trainable=1000 * MIB, transient=2000 * MIB, whole=6000 * MIB)).sentence()
    assert said.startswith("optimizer 7.81, ")
    assert "weights 3.91" in said
