"""What the training process is told: everything, in one JSON file."""

import math
from pathlib import Path

from pydantic import Field

from tasks.contracts import HardwarePlan, ModelRef, Value
from tasks.training.methods import Method
from tasks.training.spec import TrainingSpec


class Cluster(Value):
    """Several hosts that train together. They see the same files at the same paths, and run the same Python."""

    hosts: tuple[str, ...] = Field(min_length=1)  # as the command that reaches them names them
    least: int = Field(default=1, ge=1)  # hosts without which training waits
    per_host: int = Field(default=1, ge=1)  # ranks on each
    address: str  # of the machine that starts them, as they see it
    port: int = Field(default=0, ge=0, le=65_535)  # of the rendezvous there; 0: any that is free
    command: str = (  # runs one shell command on one host
        "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3 {host} {command}"
    )


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
    cluster: Cluster | None = None  # None: this machine alone

    def at(self, ranks: int) -> "TrainingJob":
        """The same training on `ranks` devices: as many sequences a step, by more or less accumulation."""
        if ranks == self.plan.devices:
            return self
        share = math.ceil(self.spec.batch_size * self.plan.tensor_parallel / ranks)
        micro = min(self.plan.micro_batch, share)
        changed = {"devices": ranks, "micro_batch": micro, "accumulation": math.ceil(share / micro)}
        return self.model_copy(update={"plan": self.plan.model_copy(update=changed)})
