"""Options of training that do not go together, found before compute is spent."""

from tasks.training.schedule import VALIDATIONS
from tasks.training.spec import AdvancedTraining, TrainingSpec


def check(spec: TrainingSpec, validation: bool) -> list[str]:
    """Why `spec` cannot work, a sentence for each problem.

    Args:
        spec: what was asked.
        validation: whether there will be validation rows.
    """
    return [*_schedule_problems(spec.advanced), *_stopping_problems(spec, validation)]


def _schedule_problems(asked: AdvancedTraining) -> list[str]:
    problems, usual = [], AdvancedTraining()
    if asked.schedule == "wsd" and asked.warmup_share + asked.decay_share > 1:
        problems.append(
            f"training.advanced.warmup_share {asked.warmup_share:g} and decay_share {asked.decay_share:g} are together more "
            f"than the whole run; make them at most 1."
        )
    if asked.schedule != "wsd" and asked.decay_share != usual.decay_share:
        problems.append(
            f"training.advanced.decay_share is {asked.decay_share:g}, but the schedule {asked.schedule} has none; set "
            f"training.advanced.schedule: wsd, or leave decay_share out."
        )
    if asked.schedule == "constant" and asked.final_rate_share != usual.final_rate_share:
        problems.append(
            f"training.advanced.final_rate_share is {asked.final_rate_share:g}, but with the schedule constant the rate stays; "
            f"use another schedule, or leave final_rate_share out."
        )
    return problems


def _stopping_problems(spec: TrainingSpec, validation: bool) -> list[str]:
    rule, every = spec.early_stopping, spec.advanced.validate_steps
    if not rule.patience:
        if rule.min_delta:
            return [
                f"training.early_stopping.min_delta is {rule.min_delta:g}, but training never ends early; set "
                f"training.early_stopping.patience, e.g. 3, or leave min_delta out."
            ]
        return []
    if not validation:
        return ["training.early_stopping.patience is set, but data.splitting.validation is 0; it needs validation rows."]
    if every and not spec.max_steps:
        return []  # how many validations there are is known with the data
    times = spec.max_steps // every if every else min(VALIDATIONS, spec.max_steps or VALIDATIONS)
    if rule.patience < times:
        return []
    return [
        f"training.early_stopping.patience is {rule.patience}, but there are about {times} validations, the first of which "
        f"always counts as lower; use a smaller patience, or a smaller training.advanced.validate_steps."
    ]
