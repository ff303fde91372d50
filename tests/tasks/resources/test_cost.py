"""Hours, money, energy and CO2, worked out by hand."""

from typing import Any

import pytest

from tasks.errors import RequestError
from tasks.resources.cost import Work, hours_of, measure_rate, operations, price
from tasks.resources.footprint import Weights
from tasks.resources.hardware import find_machine
from tasks.resources.offers import read_offers
from tasks.resources.spec import ResourceSpec

MILLION = 1_000_000
FULL = Weights(trainable=MILLION, frozen=0, linear=0, largest_linear=0, block=0, multiplied=MILLION)
ADAPTER = Weights(trainable=MILLION // 10, frozen=MILLION, linear=0, largest_linear=0, block=0, multiplied=MILLION * 11 // 10)


def test_each_weight_that_learns_takes_six_operations_a_token(model_of: Any) -> None:
    assert operations(model_of(), FULL, Work(MILLION)) == pytest.approx(6e12)
    assert operations(model_of(), FULL, Work(MILLION), checkpointing=True) == pytest.approx(8e12)


def test_frozen_weights_take_four(model_of: Any) -> None:
    assert operations(model_of(), ADAPTER, Work(MILLION)) == pytest.approx((0.1 * 6 + 4) * 1e12)


def test_validation_takes_a_forward_pass(model_of: Any) -> None:
    assert operations(model_of(), FULL, Work(MILLION, validated=MILLION)) == pytest.approx(8e12)


def test_attention_grows_with_the_length(model_of: Any) -> None:
    base = model_of(layers=10, hidden_size=100)
    assert operations(base, FULL, Work(MILLION, length=1000)) == pytest.approx(6e12 + 6 * MILLION * 10 * 100 * 1000)


def test_devices_share_the_time(model_of: Any) -> None:
    one = hours_of(1e15, 1e12, "cuda", 1)
    assert one == pytest.approx(1e15 / (1e12 * 0.4) / 3600)
    assert hours_of(1e15, 1e12, "cuda", 4) == pytest.approx(one / 4)
    assert hours_of(1e15, 1e12, "cpu", 1) == pytest.approx(one * 0.4 / 0.7)
    assert hours_of(1e15, 1e12, "cuda", 1, offloaded=True) == pytest.approx(2 * one)


def test_money_energy_and_carbon() -> None:
    listed = read_offers()
    spec = ResourceSpec(price_per_device_hour=2.5, watts_per_device=500, region="sweden")
    found = price(3.0, 4, spec, "cuda", "some", listed)
    assert (found.cost_usd, found.energy_kwh) == (30.0, 6.0)
    assert found.carbon_kg == pytest.approx(6 * listed.regions["sweden"] / 1000)


@pytest.mark.parametrize(
    ("accelerator", "name", "watts"),
    [("cpu", "Some CPU", 65), ("cuda", "Some GPU", 700), ("cuda", "NVIDIA A100-SXM4-80GB", 400), ("cuda", "Tesla T4", 70)],
)
def test_watts_where_none_are_given(accelerator: str, name: str, watts: float) -> None:
    assert price(1.0, 1, ResourceSpec(), accelerator, name, read_offers()).energy_kwh == pytest.approx(watts / 1000)


def test_an_unknown_region_names_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"Unknown resources.region 'germny'. Did you mean 'germany'\? Known: "):
        price(1.0, 1, ResourceSpec(region="germny"), "cpu", "some", read_offers())


def test_the_measured_rate_is_that_of_a_computer() -> None:
    assert 1e8 < measure_rate("cpu", "fp32") < 1e15


def test_this_machine_is_found() -> None:
    machine = find_machine()
    assert machine.cores >= 1
    assert machine.devices >= 1
    assert machine.host_gib > 0.1
    assert machine.name
