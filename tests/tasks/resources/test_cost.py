"""Hours, money and energy, worked out by hand."""

from collections.abc import Callable

import pytest

from tasks.contracts import ModelRef
from tasks.resources.cost import forecast, measure_rate
from tasks.resources.hardware import find_machine
from tasks.resources.spec import ResourceSpec


def test_full_training_takes_six_operations_a_weight_and_token(model_of: Callable[..., ModelRef]) -> None:
    base = model_of(parameters=1_000_000)
    # 1e6 tokens x 6e6 operations = 6e12; at 1e12 a second, half of it reached: 12 s
    found = forecast(base, 1_000_000, 1_000_000, 1, 1e12, ResourceSpec(), "cpu")
    assert found.hours * 3600 == pytest.approx(12)
    assert found.cost_usd == 0
    assert found.energy_kwh == pytest.approx(12 / 3600 * 0.065)


def test_frozen_weights_take_four(model_of: Callable[..., ModelRef]) -> None:
    base = model_of(parameters=1_000_000)
    found = forecast(base, 100_000, 1_000_000, 1, 1e12, ResourceSpec(), "cpu")
    assert found.hours * 3600 == pytest.approx(2 * (0.1 * 6 + 0.9 * 4))
    more = forecast(base, 2_000_000, 1_000_000, 1, 1e12, ResourceSpec(), "cpu")  # an adapter larger than its base
    assert more.hours * 3600 == pytest.approx(24)


def test_devices_share_the_time_and_each_has_its_price(model_of: Callable[..., ModelRef]) -> None:
    base = model_of(parameters=1_000_000)
    spec = ResourceSpec(price_per_device_hour=3600.0, watts_per_device=500)
    found = forecast(base, 1_000_000, 1_000_000, 4, 1e12, spec, "cuda")
    assert found.hours * 3600 == pytest.approx(3)
    assert found.cost_usd == pytest.approx(3 * 4)
    assert found.energy_kwh == pytest.approx(3 / 3600 * 4 * 0.5)


def test_a_gpu_is_taken_for_700_watts(model_of: Callable[..., ModelRef]) -> None:
    found = forecast(model_of(parameters=1_000_000), 1_000_000, 1_000_000, 1, 1e12, ResourceSpec(), "cuda")
    assert found.energy_kwh == pytest.approx(12 / 3600 * 0.7)


def test_the_measured_rate_is_that_of_a_computer() -> None:
    assert 1e8 < measure_rate("cpu", "fp32") < 1e15


def test_this_machine_is_found() -> None:
    machine = find_machine()
    assert machine.cores >= 1
    assert machine.devices >= 1
    assert machine.memory_gib > 0.1
    assert machine.name
