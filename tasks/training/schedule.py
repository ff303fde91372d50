"""Steps and learning rates, as pure functions of the step: what makes a resumed run equal to an uninterrupted one."""

import math

from tasks.contracts import TokenizedDataset
from tasks.training.spec import USUAL_LENGTH, AdvancedTraining, TrainingSpec

VALIDATIONS = 10  # of a run, about, where no interval is asked for


def total_steps(spec: TrainingSpec, rows: int) -> int:
    """Optimizer steps of a run over `rows` sequences, or packs of them."""
    if spec.max_steps:
        return spec.max_steps
    return max(1, math.ceil(spec.epochs * steps_per_epoch(spec, rows)))


def steps_per_epoch(spec: TrainingSpec, rows: int) -> int:
    """Optimizer steps in which every row is seen once."""
    return max(1, math.ceil(rows / spec.batch_size))


def pack_length(spec: TrainingSpec, limit: int, longest: int) -> int:
    """Tokens of a pack: the longest sequence that was asked for, and never less than the longest that there is.

    Args:
        spec: what was asked.
        limit: tokens that the model holds.
        longest: tokens of the longest sequence.
    """
    return max(longest, min(spec.max_length or USUAL_LENGTH, limit))


def expected_rows(spec: TrainingSpec, data: TokenizedDataset) -> int:
    """Rows of one pass: the training sequences, or with packing about so many packs, the fewest that hold every token."""
    if not spec.packing:
        return data.train.sequences
    return -(-data.train.tokens // pack_length(spec, data.max_length, data.train.longest))


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


def rate_at(step: int, total: int, peak: float, spec: AdvancedTraining) -> float:
    """The learning rate of a step: a linear warm-up to `peak`, then as the schedule has it.

    - cosine: half a period down to the final share (Loshchilov & Hutter 2017, section 3, one period);
    - linear: a line to the final share;
    - constant: stays;
    - wsd: stays, and falls at the end as 1 - sqrt(share of the decay gone) (Hu et al. 2024, section 4.1; the form of the decay
      after Hägele et al. 2024, section 3.1).

    Args:
        step: from 0.
        total: steps of the run.
        peak: the highest rate.
        spec: the schedule and its shares.
    """
    warmup = math.ceil(total * spec.warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    floor = peak * spec.final_rate_share
    if spec.schedule == "cosine":
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    if spec.schedule == "linear":
        return peak - (peak - floor) * progress
    if spec.schedule == "constant":
        return peak
    decay = max(1, min(total - warmup, round(total * spec.decay_share)))
    gone = max(0.0, (step - (total - decay)) / decay)
    return peak - (peak - floor) * math.sqrt(min(1.0, gone))


def interval(asked: int, total: int, times: int) -> int:
    """Steps between two events: as asked, or so that there are about `times` of them."""
    return asked or max(1, round(total / times))


def training_forecast(spec: TrainingSpec, data: TokenizedDataset, adapter: bool) -> tuple[int, tuple[str, ...]]:
    """Tokens that the whole training reads, and the reasons for its length and rate."""
    rows = expected_rows(spec, data)
    steps = total_steps(spec, rows)
    passes = steps / steps_per_epoch(spec, rows)
    decided = "training.max_steps" if spec.max_steps else "training.epochs"
    about, what, over = "", "sequences", f"{rows} sequences"
    if spec.packing:
        about, what = "about ", f"packs of {pack_length(spec, data.max_length, data.train.longest)} tokens"
        over = f"{data.train.sequences} sequences in about {rows} packs"
    length = f"{about}{steps} steps of {spec.batch_size} {what}: {passes:.2g} passes over {over}, by {decided}"
    return round(data.train.tokens * passes), (length, learning_rate(spec, adapter)[1])
