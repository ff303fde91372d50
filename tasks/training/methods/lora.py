"""The method `lora`: low-rank adapters beside frozen weights (Hu et al. 2021, section 4)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts import ModelRef, Spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Lora(Spec):
    """Train small low-rank matrices beside the frozen weights."""

    model_config = ConfigDict(title="LoRA")

    kind: Literal["lora"] = "lora"
    adapter: ClassVar[bool] = True
    rank: int = Field(default=16, ge=1, le=1024, title="Rank", description="Inner dimension of the adapters, 1 to 1024.")
    alpha: float = Field(
        default=32.0,
        gt=0,
        le=4096,
        title="Alpha",
        description="The adapters' output is scaled by alpha / rank. Above 0 to 4096.",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, title="Dropout", description="On the adapters' input, 0 to below 1.")
    targets: str = Field(
        default="all-linear", min_length=1, title="Targets",
        description="all-linear, or the names of the layers that get an adapter, with commas: q_proj,v_proj.",
    )  # fmt: skip
    rank_stabilized: bool = Field(
        default=False, title="Rank-stabilized", description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023, section 3)."
    )
    weight_decomposed: bool = Field(
        default=False, title="DoRA", description="Learn magnitude and direction apart (Liu et al. 2024, section 4)."
    )

    def check(self, base: ModelRef) -> str:
        """Why this cannot train `base`; "" where it can."""
        if self.rank > base.hidden_size:
            return f"method.rank {self.rank} is above the model's hidden size {base.hidden_size}; use a smaller rank, e.g. 16"
        return ""

    def trainable_parameters(self, base: ModelRef) -> int:
        """About how many weights learn: ~7 matrices a layer, each rank x (rows + columns), rows + columns ~ 3.5 hidden."""
        matrices = 7 if self.targets == "all-linear" else len(self.targets.split(","))
        return round(base.layers * matrices * self.rank * 3.5 * base.hidden_size)

    def wrap(self, model: "PreTrainedModel") -> Any:
        """The model with its adapters; only they require gradients."""
        from peft import LoraConfig, get_peft_model

        targets = [name.strip() for name in self.targets.split(",")]
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets if self.targets == "all-linear" else targets,
            use_rslora=self.rank_stabilized,
            use_dora=self.weight_decomposed,
        )
        return get_peft_model(model, config)

    def save(self, model: Any, folder: Path) -> None:
        """Write the adapter alone."""
        model.save_pretrained(str(folder), safe_serialization=True)
