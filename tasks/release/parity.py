"""Parity: whether an export says what the trained model says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import Parity
from tasks.encryption import vault
from tasks.errors import ParityError

if TYPE_CHECKING:
    from torch import Tensor

_FURTHEST = 1e9  # instead of infinity, which JSON lacks


def golden_prompts(path: Path, most: int) -> list[list[int]]:
    """Token ids of the first `most` golden prompts."""
    lines = vault.read_text(path).splitlines()[:most]
    return [json.loads(line)["input_ids"] for line in lines]


def say(model: Any, prompts: Sequence[Sequence[int]], new_tokens: int, end: int) -> tuple[list["Tensor"], list[list[int]]]:
    """What a model says to each prompt: log-probabilities `(length, vocabulary)` and the greedy continuation."""
    import torch

    answers = [_answer(model, torch.tensor([list(prompt)], device=model.device), new_tokens, end) for prompt in prompts]
    return [log for log, _ in answers], [text for _, text in answers]


def compare(expected: Any, found: Any, tolerance: float) -> Parity:
    """Put two answers of `say` side by side."""
    difference = max(_distance(one, other) for one, other in zip(expected[0], found[0], strict=True))
    same = expected[1] == found[1]
    return Parity(
        prompts=len(expected[0]),
        max_difference=difference,
        tolerance=tolerance,
        same_tokens=same,
        passed=difference <= tolerance and same,
    )


def demand(parity: Parity, what: str) -> None:
    """Refuse an export that differs.

    Raises:
        ParityError: log-probabilities differ by more than the tolerance, or greedy texts differ.
    """
    if parity.passed:
        return
    texts = "the greedy texts are equal" if parity.same_tokens else "greedy texts differ"
    raise ParityError(
        f"The export {what} is not the trained model: on {parity.prompts} golden prompts log-probabilities differ by up to "
        f"{parity.max_difference:.2g} (allowed: {parity.tolerance:.2g}) and {texts}. Nothing was released."
    )


def _distance(one: "Tensor", other: "Tensor") -> float:
    """Largest absolute difference; where one of two is no number, they are as far apart as can be."""
    difference = (one - other).abs()
    difference[one == other] = 0.0  # two tokens that are impossible, -inf, are equal
    return float(difference.nan_to_num(nan=_FURTHEST, posinf=_FURTHEST).max())


def _answer(model: Any, ids: "Tensor", new_tokens: int, end: int) -> tuple["Tensor", list[int]]:
    """Log-probabilities over one prompt `(1, length)`, and what follows it, token by token as a server does it."""
    import torch

    with torch.no_grad():
        output = model(input_ids=ids, use_cache=True)
        log = output.logits[0].float().log_softmax(-1).cpu()
        text: list[int] = []
        while len(text) < new_tokens:
            token = output.logits[0, -1].argmax()
            text.append(int(token))
            if int(token) == end:
                break
            output = model(input_ids=token.view(1, 1), past_key_values=output.past_key_values, use_cache=True)
    return log, text
