"""Steps and learning rates, as pure functions of the step: what makes a resumed run equal to an uninterrupted one."""

import math

from tasks.contracts import TokenizedDataset
from tasks.training.spec import TrainingSpec


def total_steps(spec: TrainingSpec, sequences: int) -> int:
    """Optimizer steps of a run over `sequences` training sequences."""
    if spec.max_steps:
        return spec.max_steps
    return max(1, math.ceil(spec.epochs * steps_per_epoch(spec, sequences)))


def steps_per_epoch(spec: TrainingSpec, sequences: int) -> int:
    """Optimizer steps in which every sequence is seen once."""
    return max(1, math.ceil(sequences / spec.batch_size))


def learning_rate(spec: TrainingSpec, adapter: bool, factor: float = 1.0) -> tuple[float, str]:
    """The peak rate, and why; `factor` is below 1 once the loss was not finite."""
    if spec.learning_rate:
        rate, why = spec.learning_rate, "as asked"
    elif adapter:
        rate, why = 2e-4, "usual for adapters, whose new weights start at nothing"
    else:
        rate, why = 2e-5, "usual where every pretrained weight moves"
    lowered = f", times {factor:g} since the loss was not finite" if factor < 1 else ""
    return rate * factor, f"learning rate {_short(rate * factor)}: {why}{lowered}"


def _short(rate: float) -> str:
    """2e-05 as 2e-5."""
    return f"{rate:g}".replace("e-0", "e-")


def rate_at(step: int, total: int, peak: float, warmup_share: float, final_share: float) -> float:
    """Linear warm-up to `peak`, then a cosine to `final_share` of it (Loshchilov & Hutter 2017, section 3, one period).

    Args:
        step: from 0.
        total: steps of the run.
    """
    warmup = math.ceil(total * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    floor = peak * final_share
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def interval(asked: int, total: int, times: int) -> int:
    """Steps between two events: as asked, or so that there are about `times` of them."""
    return asked or max(1, round(total / times))


def training_forecast(spec: TrainingSpec, data: TokenizedDataset, adapter: bool) -> tuple[int, tuple[str, ...]]:
    """Tokens that the whole training reads, and the reasons for its length and rate."""
    sequences = data.train.sequences
    steps = total_steps(spec, sequences)
    passes = steps / steps_per_epoch(spec, sequences)
    decided = "training.max_steps" if spec.max_steps else "training.epochs"
    length = f"{steps} steps of {spec.batch_size} sequences: {passes:.2g} passes over {sequences} sequences, by {decided}"
    return round(data.train.tokens * passes), (length, learning_rate(spec, adapter)[1])
