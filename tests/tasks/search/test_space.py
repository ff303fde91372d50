import math
from collections.abc import Callable
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.errors import RequestError
from tasks.search.dimensions import Choice, Integer, Number
from tasks.search.space import Space, apply, choose_dimensions, make_space, refusal, settings_of
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.spec import TrainingSpec

RATE = Number(path="training.learning_rate", low=1e-5, high=1e-3, log=True)
RANK = Integer(path="method.rank", low=1, high=4)
DORA = Choice(path="method.weight_decomposed", values=[False, True])


def test_a_point_of_the_cube_is_settings(make: Callable[..., Space]) -> None:
    assert make(RATE, RANK, DORA).at([0.5, 0.5, 0.5]) == {
        "training.learning_rate": 1e-4, "method.rank": 3, "method.weight_decomposed": True,
    }  # fmt: skip


def test_the_control_is_what_the_request_says() -> None:
    space = make_space([RATE, RANK], Lora(rank=4), TrainingSpec(learning_rate=3e-4))
    assert space.control == {"training.learning_rate": 3e-4, "method.rank": 4}
    assert space.reason == "space: training.learning_rate 1e-05 to 0.001 by logarithm, method.rank 1 to 4, as asked"


@pytest.mark.parametrize(
    ("dimensions", "size", "inside"),
    [([RATE, RANK], math.inf, False), ([RANK, DORA], 8, False), ([DORA], 2, True)],
)
def test_settings_are_counted(make: Callable[..., Space], dimensions: list[Any], size: float, inside: bool) -> None:
    space = make(*dimensions)
    assert space.size() == size
    assert space.control_is_inside() is inside  # the rank of the request is 16


@pytest.mark.parametrize(
    ("method", "training", "low", "high", "why"),
    [
        (Lora(), TrainingSpec(), 1e-5, 1e-3, "learning rates that suit adapters"),
        (Full(), TrainingSpec(), 1e-6, 1e-4, "learning rates that suit training every weight"),
        (Full(), TrainingSpec(learning_rate=0.004), 4e-4, 0.04, "a tenth to ten times the learning rate 0.004"),
        (Full(), TrainingSpec(learning_rate=0.5), 0.05, 1.0, "a tenth to ten times the learning rate 0.5"),
    ],
)
def test_the_automatic_rates_follow_method_and_request(method: Any, training: Any, low: float, high: float, why: str) -> None:
    rates, *_ = choose_dimensions(method, training)[0]
    assert isinstance(rates, Number)
    assert (rates.path, rates.low, rates.high, rates.log) == ("training.learning_rate", low, pytest.approx(high), True)
    assert why in choose_dimensions(method, training)[1]


@pytest.mark.parametrize(("rank", "ranks"), [(16, [8, 16, 32]), (1, [1, 2]), (1024, [512, 1024])])
def test_the_automatic_ranks_are_half_and_double(rank: int, ranks: list[int]) -> None:
    dimensions, reason = choose_dimensions(Lora(rank=rank), TrainingSpec())
    assert dimensions[1:] == [Choice(path="method.rank", values=list(ranks))]
    assert f"half and double the rank {rank}" in reason


def test_the_automatic_ranks_fit_the_model(base: ModelRef) -> None:
    assert choose_dimensions(Lora(rank=16), TrainingSpec(), base)[0][1:] == [Choice(path="method.rank", values=[8, 16])]


def test_a_method_without_a_rank_varies_its_rate_alone() -> None:
    dimensions, reason = choose_dimensions(Full(), TrainingSpec())
    assert [dimension.path for dimension in dimensions] == ["training.learning_rate"]
    assert "rank" not in reason


def test_settings_that_cannot_vary_are_not_known() -> None:
    known = settings_of(Lora(rank=4), TrainingSpec())
    assert known["method.rank"] == 4
    assert known["training.advanced.beta2"] == 0.99
    assert {"method.kind", "training.max_length", "training.epochs", "training.max_steps"} & set(known) == set()


def test_applied_settings_stand_where_their_paths_say_and_nothing_else_changes() -> None:
    method, training = apply(
        {"method.rank": 8, "training.advanced.beta1": 0.5, "training.learning_rate": 1},
        Lora(alpha=64),
        TrainingSpec(batch_size=4),
    )
    assert method == Lora(alpha=64, rank=8)
    assert (
        training.model_dump()
        == TrainingSpec.model_validate({"batch_size": 4, "learning_rate": 1.0, "advanced": {"beta1": 0.5}}).model_dump()
    )


def test_what_was_not_asked_for_stays_unasked() -> None:
    _, training = apply({"training.learning_rate": 0.1}, Lora(), TrainingSpec(batch_size=4))
    assert training.model_fields_set == {"batch_size", "learning_rate"}


def test_applying_nothing_or_twice_is_nothing_new() -> None:
    settings = {"method.rank": 8, "training.learning_rate": 1e-4}
    once = apply(settings, Lora(), TrainingSpec())
    assert apply(settings, *once) == once
    assert apply({}, *once) == once


def test_every_known_setting_can_be_applied_as_it_is() -> None:
    method, training = Lora(), TrainingSpec()
    for path, value in settings_of(method, training).items():
        assert apply({path: value}, method, training) == (method, training)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method.rank": 2000}, "method.rank 2000 cannot be: it should be less than or equal to 1024."),
        ({"method.rank": 8.0}, "method.rank 8.0 cannot be: it should be a valid integer."),
        ({"method.rank": "8"}, "method.rank '8' cannot be: it should be a valid integer."),
        ({"training.learning_rate": "1e-4"}, "without quotes, YAML wants a dot, as in 1.0e-4."),
        ({"training.advanced.beta1": 1.0}, "training.advanced.beta1 1.0 cannot be: it should be less than 1."),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        apply(settings, Lora(), TrainingSpec())
    assert str(raised.value).endswith(message)
    assert refusal(settings, Lora(), TrainingSpec()) == str(raised.value)


def test_the_method_is_asked_about_the_model(base: ModelRef) -> None:
    assert refusal({"method.rank": 8}, Lora(), TrainingSpec(), base) == ""
    assert "above the model's hidden size 16" in refusal({"method.rank": 32}, Lora(), TrainingSpec(), base)
