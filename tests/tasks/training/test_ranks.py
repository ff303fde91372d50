"""AdaLoRA's ranks: the schedule, which triplets stay, and that nothing is lost on the way through a checkpoint."""

from typing import Any

import pytest
import torch

from tasks.contracts import ModelRef
from tasks.models import load_model
from tasks.training.methods.adalora import AdaLora
from tasks.training.methods.driver import NoDriver
from tasks.training.methods.full import Full
from tasks.training.methods.ranks import RankDriver, RankSchedule
from tests.tasks.training.conftest import cpu_plan


class Engine:
    """As much of an engine as a driver asks for."""

    def __init__(self, module: Any) -> None:
        self.module = module


@pytest.fixture
def model(tiny_base: ModelRef) -> Any:
    torch.manual_seed(0)
    wrapped = AdaLora(rank=2, initial_rank=4, targets="q_proj").wrap(load_model(tiny_base.location, torch.float32))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_E" in name:
                weight.normal_()
    return wrapped


def with_gradients(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.grad = torch.randn(weight.shape, generator=generator)


def test_the_budget_falls_along_a_cubic_between_its_two_ends() -> None:
    schedule = RankSchedule(total=20, first=12, last=8, explore_share=0.1, settle_share=0.4)
    assert (schedule.shrinks_from, schedule.settled_after) == (2, 12)
    # 16 + int(8 x left^3) with left = 1, 1, 0.9, 0.8, ..., 0, for two adapters of rank 12 that end with 8.
    assert [schedule.budget(done, 2) for done in (1, 2, 3, 4, 7, 11, 12, 20)] == [24, 24, 21, 20, 17, 16, 16, 16]
    assert [done for done in range(1, 21) if schedule.allocates(done)] == list(range(3, 13))


def test_rank_is_given_out_as_often_as_asked_and_always_at_the_end() -> None:
    schedule = RankSchedule(total=20, first=12, last=8, explore_share=0.1, settle_share=0.4, every=5)
    assert [done for done in range(1, 21) if schedule.allocates(done)] == [5, 10, 12]


@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_training_ends_with_the_rank_that_was_asked_for(total: int) -> None:
    schedule = RankSchedule(total, 12, 8, 0.1, 0.3)
    assert any(schedule.allocates(done) for done in range(1, total + 1))
    assert schedule.budget(total, 1) == 8


def test_the_triplets_that_matter_most_stay_and_the_others_are_nothing(model: Any) -> None:
    driver = RankDriver(model, RankSchedule(1, 4, 2, 0.0, 0.0), 0.5)
    with_gradients(model, seed=1)
    first = driver.adapters[0]
    driver.weights[first].grad[1] = 1e3  # of two adapters with four triplets each, these must stay
    driver.weights[first].grad[3] = 1e3
    driver.before_step(0)
    driver.after_step(0)
    assert sum(driver.details().values()) == 4
    assert driver.facts() == {"active_ranks": 4}
    assert driver.kept[first][[1, 3]].all()
    for name in driver.adapters:
        assert torch.equal(driver.weights[name].flatten() != 0, driver.kept[name])
    assert set(driver.details()) == {f"model.layers.{number}.self_attn.q_proj" for number in (0, 1)}


def test_importance_is_the_smoothed_product_of_weight_and_gradient(model: Any) -> None:
    driver = RankDriver(model, RankSchedule(10, 4, 2, 0.1, 0.1), 0.5)
    name = driver.adapters[0]
    with_gradients(model, seed=1)
    driver.before_step(0)
    fresh = (driver.weights[name] * driver.weights[name].grad).abs()
    assert torch.allclose(driver.smooth[name], 0.15 * fresh)
    assert torch.allclose(driver.doubt[name], 0.15 * (fresh - 0.15 * fresh))


def test_the_orthogonality_term_is_pefts_own(model: Any) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = model.base_model.model(input_ids=ids, labels=ids, use_cache=False).loss
    with_term = model(input_ids=ids, labels=ids, use_cache=False).loss
    found = RankDriver(model, RankSchedule(10, 4, 2, 0.1, 0.1), 0.5).extra_loss(model)
    assert found is not None
    assert float(found) == pytest.approx(float(with_term - plain), rel=1e-5)
    assert RankDriver(model, RankSchedule(10, 4, 2, 0.1, 0.1), 0.0).extra_loss(model) is None


def test_a_driver_that_was_loaded_goes_on_as_the_one_that_was_kept(model: Any) -> None:
    schedule = RankSchedule(10, 4, 2, 0.1, 0.3)
    driver, other = RankDriver(model, schedule, 0.5), RankDriver(model, schedule, 0.5)
    for step in range(4):
        with_gradients(model, seed=step)
        driver.before_step(step)
        driver.after_step(step)
    other.load(driver.state())
    with_gradients(model, seed=4)
    for each in (driver, other):
        each.before_step(4)
        each.after_step(4)
    assert driver.kept
    state, again = driver.state(), other.state()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({}, [2, 3, 4, 5, 6, 7]),
        ({"explore_share": 0.5}, [5, 6, 7]),
        ({"settle_share": 0.0}, [2, 3, 4, 5, 6, 7, 8, 9]),
        ({"allocate_steps": 4}, [4, 7]),
    ],
)
def test_the_settings_say_when_ranks_are_given_out(model: Any, change: dict[str, Any], steps: list[int]) -> None:
    method = AdaLora(rank=2, initial_rank=4, **{"explore_share": 0.2, "settle_share": 0.3, **change})
    driver = method.driver(Engine(model), 9, cpu_plan())
    assert isinstance(driver, RankDriver)
    assert [done for done in range(1, 10) if driver.schedule.allocates(done)] == steps


def test_the_weight_of_the_orthogonality_term_is_that_of_the_settings(model: Any) -> None:
    once, twice = (
        AdaLora(rank=2, initial_rank=4, orthogonality=weight).driver(Engine(model), 9, cpu_plan()).extra_loss(model)
        for weight in (0.2, 0.4)
    )
    assert once is not None
    assert float(twice) == pytest.approx(2 * float(once))  # type: ignore[arg-type]


def test_most_methods_need_no_driver() -> None:
    driver = Full().driver(None, 10, cpu_plan())
    assert isinstance(driver, NoDriver)
    assert driver.extra_loss(None) is None
    assert (driver.state(), driver.facts(), driver.details()) == ({}, {}, {})
