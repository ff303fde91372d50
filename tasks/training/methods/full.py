"""The method `full`: every weight learns."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from tasks.contracts import ModelRef, Spec


class Full(Spec):
    """Train every weight of the model."""

    model_config = ConfigDict(title="Full fine-tuning")

    kind: Literal["full"] = "full"
    adapter: ClassVar[bool] = False

    def check(self, base: ModelRef) -> str:
        """Any causal model can be trained in full."""
        return ""

    def trainable_parameters(self, base: ModelRef) -> int:
        """All of them."""
        return base.parameters

    def wrap(self, model: Any) -> Any:
        """The model itself, every parameter requiring a gradient."""
        return model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        """Write the whole model."""
        model.save_pretrained(str(folder), safe_serialization=True)
