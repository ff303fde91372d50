"""What can be asked of training."""

from pydantic import Field, field_validator

from tasks.contracts import Spec

USUAL_LENGTH = 1024  # tokens of the longest sequence where none is asked for


class AdvancedTraining(Spec):
    """For experts: settings that seldom need a change."""

    weight_decay: float = Field(default=0.0, ge=0, le=1, title="Weight decay", description="AdamW's, 0 to 1.")
    warmup_share: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        title="Warm-up",
        description="Share of the steps in which the rate rises linearly, 0 to 0.5.",
    )
    final_rate_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Final rate",
        description="Rate at the end of the cosine, as a share of the peak, 0 to 1.",
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, title="Beta 1", description="AdamW's, 0 to below 1.")
    beta2: float = Field(default=0.99, ge=0, lt=1, title="Beta 2", description="AdamW's, 0 to below 1.")
    clip_norm: float = Field(
        default=1.0, ge=0, title="Clipping", description="Largest norm of the gradient, 0 or more. 0: no clipping."
    )
    validate_steps: int = Field(
        default=0,
        ge=0,
        title="Validate every",
        description="Optimizer steps between validations, 0 or more. 0: ten times a run.",
    )
    checkpoint_steps: int = Field(
        default=0,
        ge=0,
        title="Checkpoint every",
        description="Optimizer steps between checkpoints, 0 or more. 0: twenty times a run.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, le=100, title="Checkpoints kept", description="How many of the newest checkpoints stay, 1 to 100."
    )
    activation_checkpointing: bool = Field(
        default=False, title="Activation checkpointing", description="Less memory for about a third more time."
    )


class TrainingSpec(Spec):
    """How long, how fast and with what batch a model is trained."""

    epochs: float = Field(
        default=2.0, gt=0, le=1000, title="Epochs", description="How often training goes through all rows, above 0 to 1000."
    )
    max_steps: int = Field(
        default=0, ge=0, title="Most steps", description="Optimizer steps, instead of epochs, 0 or more. 0: epochs decide."
    )
    max_length: int = Field(
        default=0, ge=0, le=1_048_576, title="Longest sequence",
        description="Tokens, 8 to 1048576; at most what the model holds. 0: 1024, or what the model holds where that is less.",
    )  # fmt: skip
    packing: bool = Field(
        default=False,
        title="Packing",
        description="Rows share sequences of the longest length, unseen by each other. Batch sizes count those sequences.",
    )
    batch_size: int = Field(default=16, ge=1, le=65_536, title="Batch size", description="Rows per optimizer step, 1 to 65536.")
    micro_batch_size: int = Field(
        default=0, ge=0, title="Micro-batch size", description="Rows per device and pass, 0 or more. 0: the largest that fits."
    )
    learning_rate: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Learning rate",
        description="Peak rate, 0 to 1. 0: chosen by method, 2e-4 for adapters, 2e-5 for full training.",
    )
    advanced: AdvancedTraining = Field(default=AdvancedTraining(), title="Advanced")

    @field_validator("max_length")
    @classmethod
    def _holds_something(cls, length: int) -> int:
        return usable_length(length)


def usable_length(length: int) -> int:
    """The length, unless it is too short to learn from.

    Raises:
        ValueError: it is 1 to 7.
    """
    if 0 < length < 8:
        raise ValueError("too short to learn from; use 8 to 1048576, or 0 for automatic")
    return length
