"""The method `lora`: low-rank adapters beside frozen weights (Hu et al. 2021, section 4)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts import HardwarePlan, ModelRef
from tasks.training.methods.adapting import adapted
from tasks.training.methods.driver import Driver, NoDriver
from tasks.training.methods.low_rank import LowRank, check_rank, check_targets, lora_config, low_rank_size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_INITS = {"zero": "", "pissa": "pissa", "olora": "olora"}


class Lora(LowRank):
    """Train small low-rank matrices beside the frozen weights."""

    model_config = ConfigDict(title="LoRA")

    kind: Literal["lora"] = "lora"
    adapter: ClassVar[bool] = True
    init: Literal["zero", "pissa", "olora"] = Field(
        default="zero", title="Start",
        description="Where the adapters begin. zero: they change nothing. pissa: the weights' largest singular vectors (Meng "
        "et al. 2024, section 3). olora: an orthogonal basis of the weights (Buyukakyuz 2024, section 3).",
    )  # fmt: skip

    def check(self, base: ModelRef | None) -> str:
        """Why this cannot train `base`; "" where it can, and where none is known."""
        if base is None:
            return ""
        return check_rank(self.rank, base) or check_targets(self.targets, base)

    def most_divided(self) -> tuple[Literal[2, 3], str]:
        """The highest ZeRO stage that works, and why not more."""
        if self.init != "zero":
            return 2, f"method.init {self.init} begins from whole weights, which ZeRO 3 divides"
        return 3, ""

    def trainable_parameters(self, base: ModelRef) -> int:
        """How many weights learn."""
        return low_rank_size(self, base)

    def load(self, base: ModelRef, dtype: "torch.dtype") -> "PreTrainedModel":
        """The base model as it is."""
        from tasks.models import load_model

        return load_model(base.location, dtype, base.trust_remote_code)

    def wrap(self, model: "PreTrainedModel") -> Any:
        """The model with its adapters; only they require gradients."""
        return adapted(model, lora_config(self, _INITS[self.init]))

    def save(self, model: Any, folder: Path) -> None:
        """Write the adapter alone."""
        model.save_pretrained(str(folder), safe_serialization=True)

    def driver(self, engine: Any, total_steps: int, plan: HardwarePlan) -> Driver:
        """None is needed."""
        return NoDriver()
