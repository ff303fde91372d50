"""The price list, and one training on all its machines."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.errors import RequestError
from tasks.resources.offers import read_offers
from tasks.resources.pareto import compare_offers
from tasks.resources.spec import ResourceSpec
from tests.tasks.resources.conftest import Some, wanted

LIST = {
    "dated": "2030-01",
    "devices": [
        {"name": "Slow", "memory_gib": 40, "teraflops": 100, "watts": 100, "on_demand": 1.0, "spot": 0.5, "counts": [1, 2]},
        {"name": "Fast", "memory_gib": 80, "teraflops": 400, "watts": 300, "on_demand": 8.0, "spot": 6.0, "matches": "F-*-80"},
        {"name": "Dear", "memory_gib": 80, "teraflops": 100, "watts": 400, "on_demand": 9.0, "spot": 9.0},
        {"name": "Tiny", "memory_gib": 3, "teraflops": 999, "watts": 10, "on_demand": 0.1, "spot": 0.1},
    ],
    "regions": {"world": 500, "here": 100},
}


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "offers.yaml"
    path.write_text(yaml.safe_dump(LIST))
    return str(path)


def test_the_list_that_comes_with_tuneflow_is_whole() -> None:
    listed = read_offers()
    assert listed.dated
    assert {"world", "eu", "us"} <= set(listed.regions)
    for offer in listed.devices:
        assert 0 < offer.spot <= offer.on_demand
        assert offer.machine(offer.counts[0]).memory_gib == offer.memory_gib


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"), ("NVIDIA A100-PCIE-40GB", "A100 40GB"), ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("Tesla T4", "T4 16GB"), ("NVIDIA L4", "L4 24GB"), ("NVIDIA L40S", "L40S 48GB"), ("A100 80GB", "A100 80GB"),
    ],
)  # fmt: skip
def test_a_device_is_known_by_what_the_driver_calls_it(driver: str, name: str) -> None:
    offer = read_offers().of(driver)
    assert offer is not None
    assert offer.name == name


def test_an_unknown_device_has_no_offer() -> None:
    assert read_offers().of("Some CPU") is None


def test_each_machine_that_holds_it_is_priced(own: str, model_of: Any) -> None:
    base = model_of()
    rows = compare_offers(ResourceSpec(offers=own, region="here"), wanted(base), read_offers(own))
    by_name = {row.machine: row for row in rows}
    assert set(by_name) == {
        f"{machine}, {kind}" for machine in ("1 x Slow", "2 x Slow", "1 x Fast", "1 x Dear") for kind in ("on demand", "spot")
    }
    slow, fast = by_name["1 x Slow, on demand"], by_name["1 x Fast, on demand"]
    assert slow.hours == pytest.approx(4 * fast.hours)
    assert slow.cost_usd == pytest.approx(slow.hours)
    assert slow.energy_kwh == pytest.approx(slow.hours * 0.1)
    assert slow.carbon_kg == pytest.approx(slow.energy_kwh * 0.1)
    assert by_name["1 x Slow, spot"].cost_usd == pytest.approx(0.5 * 1.1 * slow.cost_usd)
    assert by_name["2 x Slow, on demand"].hours == pytest.approx(slow.hours / 2)
    assert [row.cost_usd for row in rows] == sorted(row.cost_usd for row in rows)
    assert by_name["1 x Fast, on demand"].best  # the fastest
    assert by_name["2 x Slow, spot"].best  # the cheapest, and faster than one for the same money
    assert not by_name["1 x Slow, spot"].best
    assert not by_name["1 x Dear, on demand"].best


def test_a_training_that_nothing_holds(own: str, model_of: Any) -> None:
    large = model_of(parameters=2**43)
    assert compare_offers(ResourceSpec(), wanted(large, Some(learned=2**43)), read_offers(own)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("devices: []\n", "dated: Field required"),
        ("- 1\n", "valid dictionary"),
        (": :\n  - x: [", "cannot be read as YAML"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(RequestError, match=message):
        read_offers(str(path))


def test_a_list_that_is_not_there() -> None:
    with pytest.raises(RequestError, match=r"resources.offers: /nowhere.yaml cannot be read"):
        read_offers("/nowhere.yaml")
