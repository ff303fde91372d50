"""The exporter `safetensors`: the whole model, an adapter merged into its base, as transformers loads it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field

from tasks.contracts import Spec, TrainedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Safetensors(Spec):
    """Merged weights in safetensors files."""

    model_config = ConfigDict(title="Safetensors (merged)")

    kind: Literal["safetensors"] = "safetensors"
    shard_gib: float = Field(default=5.0, gt=0, le=50, title="Largest file", description="GiB, above 0 to 50.")

    def tolerance(self, trained: TrainedModel) -> float:
        """Largest difference of a log-probability: merging adds in another order, full weights are the same numbers."""
        return {"fp32": 1e-3, "bf16": 0.25, "fp16": 0.05}[trained.plan.precision] if trained.adapter else 1e-5

    def export(self, model: Any, folder: Path) -> None:
        """Write `model`; an adapter is merged, so that the model in memory is changed."""
        merged = model.merge_and_unload(safe_merge=True) if hasattr(model, "merge_and_unload") else model
        merged.config.use_cache = True  # a served model wants its cache; training had it off
        merged.save_pretrained(str(folder), safe_serialization=True, max_shard_size=round(self.shard_gib * 2**30))

    def load(self, folder: Path, trained: TrainedModel, dtype: Any) -> "PreTrainedModel":
        """The exported model, from its files alone."""
        from tasks.models import load_model

        return load_model(folder, dtype, trained.base.trust_remote_code).eval()
