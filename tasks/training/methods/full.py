"""The method `full`: every weight learns."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict

from tasks.contracts import HardwarePlan, ModelRef, Spec
from tasks.training.methods.driver import Driver, NoDriver

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Full(Spec):
    """Train every weight of the model."""

    model_config = ConfigDict(title="Full fine-tuning")

    kind: Literal["full"] = "full"
    adapter: ClassVar[bool] = False

    def check(self, base: ModelRef | None) -> str:
        """Any causal model can be trained in full."""
        return ""

    def most_divided(self) -> tuple[Literal[2, 3], str]:
        """Every ZeRO stage works."""
        return 3, ""

    def trainable_parameters(self, base: ModelRef) -> int:
        """All of them."""
        return base.parameters

    def load(self, base: ModelRef, dtype: "torch.dtype") -> "PreTrainedModel":
        """The base model as it is."""
        from tasks.models import load_model

        return load_model(base.location, dtype, base.trust_remote_code)

    def wrap(self, model: Any) -> Any:
        """The model itself, every parameter requiring a gradient."""
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        """Write the whole model."""
        model.save_pretrained(str(folder), safe_serialization=True)

    def driver(self, engine: Any, total_steps: int, plan: HardwarePlan) -> Driver:
        """None is needed."""
        return NoDriver()
