"""Shapes of rows, one module each: KIND, TASK, REQUIRED and OPTIONAL columns, `fit` and `to_messages`."""

from collections.abc import Mapping, Sequence
from types import ModuleType

from tasks.data.shapes import instruction, messages, prompt_completion, question_answer, sharegpt, text, text_label
from tasks.data.shapes.values import Fit, Row
from tasks.errors import DatasetError

SHAPES: tuple[ModuleType, ...] = (
    messages, sharegpt, instruction, question_answer, prompt_completion, text_label, text,
)  # fmt: skip
_LEAST_CONFIDENCE = 0.5


def find_shape(
    address: str, columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row], task: str
) -> tuple[ModuleType, Fit]:
    """The shape that fits best: most confident first, then the most columns used.

    Args:
        address: named in errors.
        columns: what the rows hold.
        overrides: our field -> their column, as the user said.
        rows: the first rows.
        task: auto, or what the user forces: text takes plain text alone, every other task a shape with answers.

    Raises:
        DatasetError: no shape fits, or none that the task can use.
    """
    if {"chosen", "rejected"} <= set(columns):
        raise DatasetError(
            f"{address}: the rows are preference pairs (chosen and rejected), which supervised fine-tuning "
            f"cannot learn from. Keep the chosen answers as an answer column, or use a preference method."
        )
    fits = [(shape, shape.fit(columns, overrides, rows)) for shape in SHAPES if _may_serve(shape, task)]
    usable = [(shape, fit) for shape, fit in fits if fit is not None and fit.confidence >= _LEAST_CONFIDENCE]
    if not usable:
        raise DatasetError(_nothing_fits(address, columns, task, [fit for _, fit in fits if fit is not None]))
    shape, fit = max(usable, key=lambda pair: (_named(pair[1], overrides), pair[1].confidence, len(pair[1].mapping)))
    unused = [name for name in columns if name not in fit.mapping.values()]
    more = f"; not used: {', '.join(unused[:8])}" if unused else ""
    return shape, Fit(fit.mapping, fit.confidence, f"{fit.reason}{more}")


def _named(fit: Fit, overrides: Mapping[str, str]) -> int:
    """How many of the user's own column names a fit uses: these outweigh every guess."""
    return sum(fit.mapping.get(ours) == theirs for ours, theirs in overrides.items())


def _may_serve(shape: ModuleType, task: str) -> bool:
    return task == "auto" or (shape.TASK == "text") == (task == "text")


def _nothing_fits(address: str, columns: Sequence[str], task: str, unsure: Sequence[Fit]) -> str:
    known = "; ".join(f"{shape.KIND} ({', '.join(shape.REQUIRED)})" for shape in SHAPES if _may_serve(shape, task))
    doubts = "".join(f" Nearest: {fit.reason}." for fit in unsure)
    forced = "" if task == "auto" else f" for the task {task!r}"
    return (
        f"{address}: the columns {', '.join(columns) or '(none)'} fit no known shape{forced}.{doubts} "
        f"Known shapes: {known}. Say which column is which with `data.columns`, "
        f"e.g. `--set data.columns.question=ask --set data.columns.answer=reply`."
    )
