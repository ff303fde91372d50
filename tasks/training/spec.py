"""What can be asked of training."""

from typing import Literal

from pydantic import Field, field_validator

from tasks.contracts import Spec, Switch

USUAL_LENGTH = 1024  # tokens of the longest sequence where none is asked for


Schedule = Literal["cosine", "linear", "constant", "wsd"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


class AdvancedTraining(Spec):
    """For experts: settings that seldom need a change."""

    schedule: Schedule = Field(
        default="cosine",
        title="Schedule",
        description="The rate after the warm-up: falls along a cosine or a line, stays (constant), or stays and falls at the "
        "end (wsd).",
    )
    decay_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        title="Decay",
        description="Share of the steps in which the rate falls at the end, above 0 to 1. For the schedule wsd alone.",
    )
    optimizer: Optimizer = Field(
        default="adamw",
        title="Optimizer",
        description="adamw_8bit: its two moments in 8 bits; paged_adamw_8bit: moved to main memory where a GPU is full.",
    )
    neftune_alpha: float = Field(
        default=0.0,
        ge=0,
        le=100,
        title="NEFTune",
        description="Size of random noise on the embeddings of tokens, in training alone, 0 to 100; 5 is usual. 0: none.",
    )
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
        description="Rate at the end, as a share of the peak, 0 to 1. For every schedule but constant.",
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
        description="Optimizer steps between checkpoints, 0 or more. 0: by what one costs, at most half an hour of work apart.",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, le=100, title="Checkpoints kept", description="How many of the newest checkpoints stay, 1 to 100."
    )
    activation_checkpointing: Switch = Field(
        default="auto",
        title="Activation checkpointing",
        description="Less memory for about a third more time. auto: where memory needs it.",
    )


class EarlyStopping(Spec):
    """When training ends before its last step."""

    patience: int = Field(
        default=0,
        ge=0,
        le=1000,
        title="Patience",
        description="Validations in a row without a lower loss after which training ends, 0 to 1000. 0: it never ends early.",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        le=10,
        title="Least gain",
        description="Nats by which the validation loss must fall to count as lower, 0 to 10.",
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
    early_stopping: EarlyStopping = Field(default=EarlyStopping(), title="Early stopping")
    deterministic: bool = Field(
        default=False,
        title="Deterministic",
        description="On GPUs: only kernels that give the same bits each time, which are slower. CPUs do so anyway.",
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
