"""The method `adalora`: low-rank adapters whose rank goes where it matters most (Zhang et al. 2023, section 3)."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tasks.contracts import HardwarePlan, ModelRef
from tasks.training.methods.adapting import adapted
from tasks.training.methods.driver import Driver
from tasks.training.methods.low_rank import Adapted, check_rank, check_targets, matrices, target_modules
from tasks.training.methods.ranks import RankDriver, RankSchedule, only_used_ranks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AdaLora(Adapted):
    """Train low-rank adapters that begin with too much rank and lose what matters least, layer by layer."""

    model_config = ConfigDict(title="AdaLoRA")

    kind: Literal["adalora"] = "adalora"
    adapter: ClassVar[bool] = True
    rank: int = Field(
        default=8,
        ge=1,
        le=1024,
        title="Rank",
        description="Rank of the adapters at the end, on average over the layers, 1 to 1024.",
    )
    initial_rank: int = Field(
        default=0, ge=0, le=2048, title="Rank at first",
        description="Of every adapter, above rank, up to 2048. 0: half as much again as rank.",
    )  # fmt: skip
    explore_share: float = Field(
        default=0.1, ge=0, le=0.9, title="Explore", description="Share of the steps before ranks begin to shrink, 0 to 0.9."
    )
    settle_share: float = Field(
        default=0.3, ge=0, le=0.9, title="Settle", description="Share of the steps after ranks have shrunk, 0 to 0.9."
    )
    allocate_steps: int = Field(
        default=0, ge=0, title="Allocate every",
        description="Optimizer steps between two allocations of rank, 0 or more. 0: about a hundred times a run.",
    )  # fmt: skip
    orthogonality: float = Field(
        default=0.5, ge=0, le=100, title="Orthogonality",
        description="Weight of the term that keeps singular vectors orthogonal (equation 4), 0 to 100; for training alone.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.initial_rank and self.initial_rank <= self.rank:
            raise ValueError(
                f"initial_rank {self.initial_rank} is not above rank {self.rank}, so that no rank could be taken away"
            )
        if self.explore_share + self.settle_share > 0.95:
            raise ValueError("explore_share and settle_share leave less than 0.05 of the steps for ranks to shrink in")
        return self

    @property
    def first_rank(self) -> int:
        """The rank of every adapter at the start."""
        return self.initial_rank or max(self.rank + 1, self.rank * 3 // 2)

    def check(self, base: ModelRef | None) -> str:
        """Why this cannot train `base`; "" where it can, and where none is known."""
        if base is None:
            return ""
        name = "method.initial_rank" if self.initial_rank else "method.rank gives a first rank:"
        return check_rank(self.first_rank, base, name) or check_targets(self.targets, base, embeddings=False)

    def most_divided(self) -> tuple[Literal[2, 3], str]:
        """The highest ZeRO stage that works, and why not more."""
        return 2, "AdaLoRA weighs and masks whole adapters between two steps, which ZeRO 3 divides"

    def trainable_parameters(self, base: ModelRef) -> int:
        """How many weights learn: left and right singular vectors and values, of every rank there is at first."""
        return sum(self.first_rank * (inputs + outputs + 1) for inputs, outputs in matrices(self.targets, base))

    def wrap(self, model: "PreTrainedModel") -> Any:
        """The model with its adapters; only they require gradients."""
        from peft import AdaLoraConfig

        config = AdaLoraConfig(
            task_type="CAUSAL_LM",
            init_r=self.first_rank,
            target_r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=target_modules(self.targets),
            orth_reg_weight=self.orthogonality,
            total_step=1,  # demanded, and not used: the driver knows the real number of steps
        )
        return adapted(model, config)

    def save(self, model: Any, folder: Path) -> None:
        """Write the adapter alone, without the ranks that it lost."""
        with only_used_ranks(model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have invalid shape")  # layers that lost every rank
            model.save_pretrained(str(folder), safe_serialization=True)

    def driver(self, engine: Any, total_steps: int, plan: HardwarePlan) -> Driver:
        """What takes rank away from step to step."""
        schedule = RankSchedule(
            total_steps, self.first_rank, self.rank, self.explore_share, self.settle_share, self.allocate_steps
        )
        return RankDriver(engine.module, schedule, self.orthogonality)
