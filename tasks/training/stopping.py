"""When training ends before its last step: a pure function of the validation losses, so that a resumed run ends at the same."""

from collections.abc import Sequence

from tasks.training.spec import EarlyStopping


def exhausted(losses: Sequence[float], rule: EarlyStopping) -> bool:
    """Whether the last `patience` validations all failed to be lower than the best before them by more than `min_delta`.

    Args:
        losses: of the validations, in their order.
        rule: what was asked.
    """
    if not rule.patience:
        return False
    best, since = float("inf"), 0
    for loss in losses:
        if loss < best - rule.min_delta:
            best, since = loss, 0
        else:
            since += 1
    return since >= rule.patience
