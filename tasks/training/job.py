"""What the training process is told: everything, in one JSON file."""

from pathlib import Path

from pydantic import Field

from tasks.contracts import HardwarePlan, ModelRef, Value
from tasks.training.methods import Method
from tasks.training.spec import TrainingSpec


class TrainingJob(Value):
    """One training. Files are local; `checkpoints` outlives the process, `out` is filled at the end."""

    base: ModelRef
    train_file: Path
    validation_file: Path
    method: Method = Field(discriminator=None)
    spec: TrainingSpec
    plan: HardwarePlan
    rate_factor: float = Field(default=1.0, gt=0, le=1)  # of the learning rate; below 1 once the loss was not finite
    seed: int
    pad_token_id: int
    checkpoints: Path
    out: Path
    key: str  # names the training: a checkpoint of another one is not used
