"""The method `lora`: low-rank adapters beside frozen weights (Hu et al. 2021, section 4)."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.training.methods.adapting import adapted
from tasks.training.methods.low_rank import LowRank, lora_config

if TYPE_CHECKING:
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

    def most_divided(self) -> tuple[Literal[2, 3], str]:
        """The highest ZeRO stage that works, and why not more."""
        if self.init != "zero":
            return 2, f"method.init {self.init} begins from whole weights, which ZeRO 3 divides"
        return 3, ""

    def wrap(self, model: "PreTrainedModel") -> Any:
        """The model with its adapters; only they require gradients."""
        return adapted(model, lora_config(self, _INITS[self.init]))
