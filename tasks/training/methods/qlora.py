"""The method `qlora`: LoRA beside a base in 4 bits (Dettmers et al. 2023, section 3)."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts import ModelRef
from tasks.training.methods.adapting import adapted
from tasks.training.methods.low_rank import LowRank, lora_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class QLora(LowRank):
    """LoRA beside frozen weights that are held in 4 bits: a quarter of the memory, more time."""

    model_config = ConfigDict(title="QLoRA")

    kind: Literal["qlora"] = "qlora"
    adapter: ClassVar[bool] = True
    double_quantization: bool = Field(
        default=True, title="Double quantization",
        description="Quantize the constants of the quantization too: 0.37 bits less a weight.",
    )  # fmt: skip

    def most_divided(self) -> tuple[Literal[2, 3], str]:
        """Every ZeRO stage works; ZeRO 3 divides 4-bit weights too, once each device has read them."""
        return 3, ""

    def load(self, base: ModelRef, dtype: "torch.dtype") -> "PreTrainedModel":
        """The base model in 4 bits, computing in `dtype`."""
        from tasks.models import load_quantized

        return load_quantized(base.location, dtype, base.trust_remote_code, self.double_quantization)

    def wrap(self, model: "PreTrainedModel") -> Any:
        """The model with its adapters; only they require gradients."""
        return adapted(model, lora_config(self))
