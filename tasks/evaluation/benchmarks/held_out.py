"""The benchmark `held_out`: the request's own test rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from tasks.contracts import ModelRole, Spec
from tasks.evaluation.items import Item, Progress, Result, read_test
from tasks.evaluation.metrics import Answer, Subject, answers, exact_match, mean_losses


class HeldOut(Spec):
    """How well the right answers of the test split are predicted (loss) and given (exact match)."""

    model_config = ConfigDict(title="Held-out rows")

    kind: Literal["held_out"] = "held_out"
    items: int = Field(default=0, ge=0, title="Items", description="Most test rows used for the loss, 0 or more. 0: all.")
    generated_items: int = Field(
        default=200,
        ge=0,
        title="Generated items",
        description="Most test rows answered by generation, 0 or more. 0: none, no exact match.",
    )
    max_new_tokens: int = Field(default=64, ge=1, le=4096, title="Longest answer", description="Tokens, 1 to 4096.")

    def choose(self, test_file: Path, seed: int) -> list[Item]:
        """The rows to ask, in a seeded order."""
        return read_test(test_file, self.items, seed)

    def asked(self, items: Sequence[Item]) -> list[Item]:
        """Those of `items` that are answered by generation: the first that have a prompt and a reference answer."""
        return [item for item in items if item.prompt and item.reference.strip()][: self.generated_items]

    def score(self, subject: Subject, role: ModelRole, items: Sequence[Item], progress: Progress) -> list[Result]:
        """One result an item; calls `progress` for each loss and each answer."""
        losses = mean_losses(subject, items, progress)
        asked = self.asked(items)
        given = answers(subject, [item.prompt for item in asked], self.max_new_tokens, progress)
        by_number = {item.number: answer for item, answer in zip(asked, given, strict=True)}
        return [
            _result(role, item, loss, tokens, by_number.get(item.number))
            for item, (loss, tokens) in zip(items, losses, strict=True)
        ]


def _result(role: ModelRole, item: Item, loss: float | None, tokens: int, answer: Answer | None) -> Result:
    plain = Result(role, "held_out", item.number, item.row, item.group, loss, tokens)
    if answer is None:
        return plain
    return Result(
        role, "held_out", item.number, item.row, item.group, loss, tokens,
        exact_match=exact_match(answer.text, item.reference),
        answer=answer.text, finished=answer.finished, cut=answer.cut,
        prompt=item.prompt, reference=item.reference,
    )  # fmt: skip
