"""What earlier trainings of a workspace say of the forecasts: how many times what was forecast came to be."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from tasks.contracts import TrainedModel

_LEAST, _MOST = 0.2, 5.0  # a ratio outside says more of what else ran on the machine than of the forecast
_ENOUGH = 3  # trainings


@dataclass(frozen=True)
class Past:
    """Measured / arithmetic, as medians.

    Attributes:
        time: of the hours.
        memory: of the peak.
        trainings: how many there are to go by; too few change nothing.
        smallest: parameters of the smallest model among them.
        largest: of the largest.
    """

    time: float = 1.0
    memory: float = 1.0
    trainings: int = 0
    smallest: int = 0
    largest: int = 0

    def sentences(self, parameters: int) -> list[str]:
        """How the forecasts were corrected, and whether this model lies within what was measured."""
        if self.trainings < _ENOUGH:
            few = f"{self.trainings or 'no'} earlier training(s) on this device"
            return [f"forecasts are arithmetic: {few} to correct them by, and {_ENOUGH} are needed"]
        found = (
            f"forecasts are corrected by the medians of {self.trainings} earlier trainings on this device: time "
            f"x {self.time:.2f}, memory x {self.memory:.2f}"
        )
        if self.smallest <= parameters <= self.largest:
            return [found]
        return [
            f"{found}; those models had {self.smallest:,} to {self.largest:,} parameters, and this one's {parameters:,} lie "
            f"outside the measured range"
        ]


NOTHING = Past()


def learn(models: Iterable[TrainedModel], accelerator: str, device_name: str) -> Past:
    """What the trainings on this kind of device say; those that recovered from a failure or resumed are left out."""
    same = [
        model for model in models
        if model.plan.accelerator == accelerator and model.plan.device_name == device_name
        and not model.recoveries and not model.resumed_from and model.plan.hours > 0 and model.plan.memory_gib > 0
    ]  # fmt: skip
    times = [model.forecast.actual_hours / (model.plan.hours / model.plan.time_factor) for model in same]
    peaks = [model.forecast.actual_memory_gib / (model.plan.memory_gib / model.plan.memory_factor) for model in same]
    known = [model.base.parameters for model in same]
    if len(same) < _ENOUGH:
        return Past(trainings=len(same))
    return Past(_within(median(times)), _within(median(peaks)), len(same), min(known), max(known))


def _within(ratio: float) -> float:
    return min(_MOST, max(_LEAST, ratio))
