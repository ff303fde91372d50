"""What was asked of a set-up, and what came of each thing in it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Outcome = Literal["made", "changed", "kept"]
Kind = Literal["work pool", "limit", "block type", "automation", "deployment"]
PREFIX = "tuneflow: "  # of the names of our automations
_SHORTEST = 0.2  # minutes; Prefect takes no trigger on silence below 10 s


class InstallationSpec(BaseModel):
    """What to set up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workspace: Path = Field(description="Absolute folder in which deployed runs work.")
    cpu_runs: int = Field(default=4, ge=1, description="Flow runs at a time on the pool cpu.")
    gpu_runs: int = Field(default=1, ge=1, description="Flow runs at a time on the pools gpu and k8s-gpu.")
    gpu_devices: int = Field(default=1, ge=1, description="Slots of the limit gpu: devices that runs share.")
    notify: str = Field(default="", description="Notification block, as slack-webhook/team. Empty: no alerts are made.")
    stall_minutes: float = Field(default=30, ge=_SHORTEST, description="Minutes without a training step before the alert.")
    idle_minutes: float = Field(
        default=15, ge=_SHORTEST, description="Least minutes between two alerts on a run's idle device."
    )


class Item(BaseModel):
    """One thing and what came of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: Kind
    name: str
    outcome: Outcome

    def line(self) -> str:
        """For the screen."""
        return f"{self.outcome:7}  {self.what:10}  {self.name}"


def outcome_of(before: object, after: object) -> Outcome:
    """Made where there was nothing, kept where nothing differs."""
    if before is None:
        return "made"
    return "kept" if before == after else "changed"
