"""How often a checkpoint is written: what it costs against what it saves."""

import math
import time
from statistics import median

_FIRST = 3  # step of the first checkpoint: it proves that one can be written, and measures what it costs
_DEVICE_HOURS = 50_000.0  # between failures of one device: Dubey et al. 2024, section 3.3.4: 419 in 54 days on 16,384 GPUs
_MOST_HOURS = 24.0  # what is assumed of few devices: machines are restarted, spot ones are taken away
_MOST_SECONDS = 1800.0  # a failure never costs more work than that
_REMEMBERED = 32


def seconds_between_failures(devices: int) -> float:
    """What is assumed of `devices` together."""
    return 3600 * min(_MOST_HOURS, _DEVICE_HOURS / devices)


def best_seconds(write_seconds: float, failure_seconds: float) -> float:
    """Time between checkpoints that loses the least: sqrt(2 C M) (Young 1974; the first order of Daly 2006, equation 20).

    >>> round(best_seconds(0.05, 86400)), round(best_seconds(5.0, 86400))
    (93, 930)
    """
    return math.sqrt(2 * write_seconds * failure_seconds)


def choose_interval(write_seconds: float, step_seconds: float, devices: int) -> tuple[int, str]:
    """Optimizer steps between checkpoints, and why."""
    failure = seconds_between_failures(devices)
    best = best_seconds(write_seconds, failure)
    seconds = min(best, _MOST_SECONDS)
    steps = max(1, round(seconds / max(step_seconds, 1e-9)))
    cap = f", cut to {_MOST_SECONDS / 60:g} minutes of work" if best > _MOST_SECONDS else ""
    return steps, (
        f"a checkpoint every {steps} steps of {step_seconds:.3g} s: one takes {write_seconds:.2g} s, and a failure every "
        f"{failure / 3600:.3g} h is assumed of {devices} device(s), so {best:.0f} s apart is best (Young 1974){cap}"
    )


class Pace:
    """When the next checkpoint is due; equal on all ranks, since they are told the same figures.

    Args:
        asked: steps between checkpoints; 0: chosen by what they cost.
        devices: ranks.
    """

    def __init__(self, asked: int, devices: int) -> None:
        self._asked, self._devices = asked, devices
        self._next = _FIRST
        self._last = 0.0
        self._seconds: list[float] = []

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after `step`; called after each step."""
        now = time.monotonic()
        if self._last:
            self._seconds = [*self._seconds[-_REMEMBERED:], now - self._last]
        self._last = now
        return step % self._asked == 0 if self._asked else step >= self._next

    def step_seconds(self) -> float:
        """The median of the last steps on this rank."""
        return median(self._seconds) if self._seconds else 0.0

    def written(self, step: int, write_seconds: float, step_seconds: float) -> str:
        """Note what the checkpoint of `step` took; why the next is due when it is, "" where that was asked for."""
        self._last = 0.0  # the time of writing belongs to no step
        if self._asked:
            return ""
        if not step_seconds:  # a stop came before the second step
            self._next = step + _FIRST
            return ""
        interval, why = choose_interval(write_seconds, step_seconds, self._devices)
        self._next = step + interval
        return why
