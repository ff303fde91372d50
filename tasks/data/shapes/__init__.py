"""Shapes of rows, one module each: KIND, TASK, REQUIRED and OPTIONAL columns, `fit` and `to_messages`.

A shape of which several lines make one row has `gather` too; one that reads columns without a field of ours names
them in READS.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from tasks.data.shapes import (
    instruction,
    messages,
    oasst_messages,
    oasst_tree,
    prompt_completion,
    question_answer,
    sharegpt,
    text,
    text_label,
)  # fmt: skip
from tasks.data.shapes.values import Fit, Row
from tasks.errors import DatasetError

SHAPES: tuple[ModuleType, ...] = (
    messages, sharegpt, oasst_tree, oasst_messages, instruction, question_answer, prompt_completion, text_label, text,
)  # fmt: skip
_LEAST_CONFIDENCE = 0.5
_PREFERENCES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"), ("response_j", "response_k"))
_NAMED = 8


def find_shape(
    address: str, columns: Sequence[str], overrides: Mapping[str, str], rows: Sequence[Row], task: str, note: str = ""
) -> tuple[ModuleType, Fit]:
    """The shape that fits best: most confident first, then the most columns used.

    Args:
        address: named in errors.
        columns: what the rows hold.
        overrides: our field -> their column, as the user said.
        rows: the first rows.
        task: auto, or what the user forces: text takes plain text alone, every other task a shape with answers.
        note: what of the file is read and what is not; it becomes part of the reason.

    Raises:
        DatasetError: no shape fits, or none that the task can use.
    """
    _refuse_preferences(address, columns, overrides)
    fits = [(shape, shape.fit(columns, overrides, rows)) for shape in SHAPES if _may_serve(shape, task)]
    usable = [(shape, fit) for shape, fit in fits if fit is not None and fit.confidence >= _LEAST_CONFIDENCE]
    if not usable:
        raise DatasetError(_nothing_fits(address, columns, task, [fit for _, fit in fits if fit is not None]))
    shape, fit = max(usable, key=lambda pair: (_named(pair[1], overrides), pair[1].confidence, len(pair[1].mapping)))
    used = {*fit.mapping.values(), *getattr(shape, "READS", ())}
    unused = [name for name in columns if name not in used]
    more = f"; not used: {', '.join(unused[:_NAMED])}" if unused else ""
    more += f" and {len(unused) - _NAMED} more" if len(unused) > _NAMED else ""
    return shape, Fit(fit.mapping, fit.confidence, f"{fit.reason}{more}{f'; {note}' if note else ''}")


def spans_lines(shape: ModuleType) -> bool:
    """True where several lines make one row: such a file is read in one part, through `gathered`."""
    return hasattr(shape, "gather")


def gathered(
    shape: ModuleType, address: str, rows: Iterator[tuple[int, Row]], *, whole: bool = True
) -> Iterator[tuple[int, Row]]:
    """The rows as the shape maps them: as they are, or several lines of a file joined to one row.

    Args:
        shape: of the file.
        address: named in errors.
        rows: line and row.
        whole: False where these are only the first rows of the file, whose last one may be incomplete.

    Raises:
        DatasetError: lines that belong together do not lie together.
    """
    if not spans_lines(shape):
        return rows
    found: Iterator[tuple[int, Row]] = shape.gather(address, rows, whole=whole)
    return found


def _refuse_preferences(address: str, columns: Sequence[str], overrides: Mapping[str, str]) -> None:
    """Stop at preference pairs, unless the user says that the better answers are to be learned."""
    names = {name.strip().lower() for name in columns}
    for better, worse in _PREFERENCES:
        if {better, worse} <= names and better not in {name.strip().lower() for name in overrides.values()}:
            raise DatasetError(
                f"{address}: the rows are preference pairs ({better} and {worse}), which supervised fine-tuning "
                f"cannot learn from. Keep the {better} answers as an answer column, or use a preference method."
            )


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
