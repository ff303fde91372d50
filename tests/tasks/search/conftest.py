"""A method with a rank, a training with nested settings and a model of 32, as a search sees them."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.contracts import ModelRef, Objective, Trial
from tasks.search.space import Space, make_space
from tasks.training.methods.lora import Lora
from tasks.training.spec import TrainingSpec


@pytest.fixture
def base() -> ModelRef:
    return ModelRef(
        uri="tiny", location="tiny", sha256="0" * 64, parameters=1_000, architecture="LlamaForCausalLM", max_positions=64,
        vocabulary=100, bytes=4_000, hidden_size=16, layers=2,
    )  # fmt: skip


@pytest.fixture
def make() -> Callable[..., Space]:
    """The space of a request with LoRA and these dimensions."""

    def space(*dimensions: Any) -> Space:
        return make_space(dimensions, Lora(), TrainingSpec())

    return space


@pytest.fixture
def trial() -> Callable[..., Trial]:
    """A trial that is done with a loss and seconds, or failed with a reason."""

    def make_trial(number: int, loss: float | None = None, seconds: float = 10.0, reason: str = "", **settings: Any) -> Trial:
        objectives = () if loss is None else (Objective(name="loss", value=loss), Objective(name="seconds", value=seconds))
        return Trial(
            number=number, settings={path.replace("__", "."): value for path, value in settings.items()},
            objectives=objectives, status="failed" if loss is None else "done", seconds=seconds, reason=reason,
        )  # fmt: skip

    return make_trial
