"""The exporter `adapter`: the adapter alone, to be loaded beside its base model by PEFT."""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from tasks.contracts import Spec, TrainedModel


class Adapter(Spec):
    """The adapter without its base."""

    model_config = ConfigDict(title="Adapter")

    kind: Literal["adapter"] = "adapter"

    def tolerance(self, trained: TrainedModel) -> float:
        """The same numbers in the same order."""
        return 1e-6

    def export(self, model: Any, folder: Path) -> None:
        """Write the adapter."""
        model.save_pretrained(str(folder), safe_serialization=True)

    def load(self, folder: Path, trained: TrainedModel, dtype: Any) -> Any:
        """The base with the exported adapter."""
        from tasks.models import load_trained

        return load_trained(trained.model_copy(update={"adapter": True}), folder, dtype)
