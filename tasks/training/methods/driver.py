"""What a method does beside the optimizer's steps: most do nothing, AdaLoRA spreads its rank."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Driver(Protocol):
    """What the training loop asks of a method, on every rank alike; steps count from 0, as optimizer steps.

    A step is: per micro-batch `backward(loss of the tokens * accumulation * world / learned + extra_loss(model))`; then, once,
    `before_step(step)` with the gradients of the whole batch at hand, the optimizer's step, and `after_step(step)`. The engine
    divides by the accumulation and averages over ranks, so the extra term counts once a step. What `state()` gives travels in
    the checkpoint, and `load` puts it back before the first step.
    """

    def extra_loss(self, model: Any) -> "Tensor | None":
        """A term of the training loss beside that of the tokens; validation leaves it out."""

    def before_step(self, step: int) -> None:
        """Act between the last backward pass of step `step` and the optimizer, where gradients can be read."""

    def after_step(self, step: int) -> None:
        """Act after the optimizer has made step `step`, when gradients are gone."""

    def state(self) -> "dict[str, Tensor]":
        """Everything that a resumed run needs, by name, equal on every rank."""

    def load(self, state: "dict[str, Tensor]") -> None:
        """Go on from what `state()` gave."""

    def facts(self) -> dict[str, float]:
        """Few figures of this moment for the history, such as ranks in use."""

    def details(self) -> dict[str, float]:
        """Figures of each part of the model, for the result at the end."""


class NoDriver:
    """The driver of a method that needs none."""

    def extra_loss(self, model: Any) -> "Tensor | None":
        """No term."""
        return None

    def before_step(self, step: int) -> None:
        """Nothing."""

    def after_step(self, step: int) -> None:
        """Nothing."""

    def state(self) -> "dict[str, Tensor]":
        """Nothing."""
        return {}

    def load(self, state: "dict[str, Tensor]") -> None:
        """Nothing."""

    def facts(self) -> dict[str, float]:
        """No figures."""
        return {}

    def details(self) -> dict[str, float]:
        """No figures."""
        return {}
