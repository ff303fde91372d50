"""What to do next, said only where the evidence shows it. The thresholds are this project's rules of thumb."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.contracts import Comparison, TrainedModel
from tasks.evaluation.items import Result
from tasks.evaluation.significance import count_groups, least_groups
from tasks.evaluation.spec import EvaluationSpec

_RISE = 0.01  # of the best validation loss: less is noise
_GAP_SHARE, _GAP_NATS = 0.25, 0.1  # training loss this far below validation loss is memory, not skill
_UNFINISHED = 0.1  # of the tuned model's answers
History = Sequence[Mapping[str, Any]]


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of a training history, one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def advise(
    results: Sequence[Result],
    comparisons: Sequence[Comparison],
    spec: EvaluationSpec,
    trained: TrainedModel,
    history: History,
) -> tuple[str, ...]:
    """Sentences, each from one piece of evidence; none where nothing is amiss."""
    found = [
        *_on_data(results, comparisons, spec),
        *_on_answers(results),
        *_on_validation(history),
        *_on_gap(trained),
    ]
    return tuple(found)


def _on_data(results: Sequence[Result], comparisons: Sequence[Comparison], spec: EvaluationSpec) -> list[str]:
    advice = []
    groups, least = count_groups([result.group for result in results]), least_groups(spec.confidence)
    if groups < least:
        advice.append(
            f"The test items come from {groups} groups, and {least} are the fewest that can settle anything at a "
            f"confidence of {spec.confidence:g}: hold back more and more varied rows (data.splitting.test)."
        )
    for comparison in comparisons:
        if comparison.verdict == "not enough data" and comparison.enough:
            advice.append(
                f"{comparison.benchmark} {comparison.metric} against the {comparison.against}: {comparison.n} items "
                f"are too few; about {comparison.enough} would settle it four times of five, were the true difference "
                f"what was seen. Hold back more test rows, or raise items and generated_items."
            )
    return advice


def _on_answers(results: Sequence[Result]) -> list[str]:
    if not results:
        return []
    answers = [result for result in results if result.role == "tuned" and result.exact_match is not None]
    if not answers:
        return ["Exact match was not computed, since no answer was generated: the loss alone says how the model does."]
    advice = []
    cut, endless = sum(answer.cut > 0 for answer in answers), sum(not answer.finished for answer in answers)
    if cut:
        advice.append(
            f"{cut} of {len(answers)} prompts lost their beginning to make room for the answer: lower max_new_tokens, "
            f"or use a base model with more positions."
        )
    if endless > _UNFINISHED * len(answers):
        advice.append(
            f"{endless} of {len(answers)} answers of the tuned model were stopped by max_new_tokens, not by the model: "
            f"raise it if right answers are that long."
        )
    return advice


def _on_validation(history: History) -> list[str]:
    """Overfitting shows as a validation loss that rises after its best step (Prechelt 1998, section 1)."""
    validated = [(int(h["step"]), float(h["validation_loss"])) for h in history if h.get("validation_loss") is not None]
    if len(validated) < 2:
        return []
    best_step, best = min(validated, key=lambda pair: pair[1])
    (_, before), (last_step, last) = validated[-2:]
    if last > best * (1 + _RISE):
        return [
            f"Validation loss was lowest at step {best_step} ({best:.4f}) and rose to {last:.4f} by step {last_step}: "
            f"train fewer steps or at a lower learning rate, or bring more data."
        ]
    if best_step == last_step and before > last * (1 + _RISE):
        return [
            f"Validation loss still fell at the last step ({before:.4f} to {last:.4f} at step {last_step}): more steps "
            f"may help."
        ]
    return []


def _on_gap(trained: TrainedModel) -> list[str]:
    validation = trained.validation_loss
    if validation is None:
        return ["There were no validation rows, so that nothing shows whether training went on for too long."]
    gap = validation - trained.train_loss
    if gap > max(_GAP_NATS, _GAP_SHARE * validation):
        return [
            f"Training loss ({trained.train_loss:.4f}) is far below validation loss ({validation:.4f}): the model "
            f"remembers its rows. Bring more data, train fewer epochs, or use a smaller rank."
        ]
    return []
