"""What rows are like beyond what a repair or a removal decides by: told in the report, with the rows that show it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.data import markup, mending, signals
from tasks.data.repairs import holds_literal_newlines
from tasks.data.shards import Mask, Turns
from tasks.data.spec import CleaningSpec

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Trait:
    """A check of each row.

    Args:
        name: of the check.
        expected: what rows should be like.
        repair: the repair that mends it, "" for none.
    """

    name: str
    expected: str
    repair: str = ""


_SHAPES = (
    Trait("answer_not_in_prompt", "answers that do not stand in their prompt"),
    Trait("no_refusals", "answers that do not refuse"),
    Trait("no_boilerplate", "answers that do not speak of being a language model"),
    Trait("answers_beyond_addresses", "answers of more than an address"),
    Trait("two_sides", "conversations in which both sides speak"),
    Trait("no_repeated_turns", "conversations that say nothing twice"),
    Trait("no_html", "no HTML in prose", "strip_html"),
    Trait("no_written_line_breaks", "no line breaks written as backslash and n in prose", "unescape_newlines"),
)


def traits_for(task: str, spec: CleaningSpec) -> list[Trait]:
    """The checks that make sense for a task."""
    of_prompts = {"answer_not_in_prompt", "two_sides", "no_repeated_turns"}
    shapes = [trait for trait in _SHAPES if task != "text" or trait.name not in of_prompts]
    kinds = () if spec.personal_data == "off" else spec.personal_kinds
    return [*shapes, *(Trait(f"no_{kind}", f"no {kind.replace('_', ' ')}", f"redact_{kind}") for kind in kinds)]


def found_in(turns: Turns, task: str, spec: CleaningSpec) -> dict[str, Mask]:
    """For each check the rows that are otherwise."""
    answers, texts = turns.answers, turns.content
    by_row: dict[str, pl.Series] = {
        "no_refusals": signals.is_refusal(answers),
        "no_boilerplate": signals.is_boilerplate(answers),
        "answers_beyond_addresses": signals.is_url_only(answers),
    }
    if task != "text":
        by_row["answer_not_in_prompt"] = signals.answer_in_prompt(turns.prompts, answers)
        by_row["two_sides"] = signals.one_sided(turns.row, turns.role, turns.count)
        by_row["no_repeated_turns"] = signals.repeats_turns(turns.row, turns.role, texts, turns.count)
    by_turn: dict[str, pl.Series] = {
        "no_html": markup.holds_html(texts),
        "no_written_line_breaks": holds_literal_newlines(texts),
    }
    if spec.personal_data != "off":
        by_turn |= {f"no_{kind}": counts > 0 for kind, counts in mending.personal(texts, spec).items()}
    return {**_masks(by_row), **{name: turns.any_of(mask) for name, mask in _masks(by_turn).items()}}


def _masks(series: Mapping[str, "pl.Series"]) -> dict[str, Mask]:
    return {name: np.asarray(each.to_numpy(), dtype=np.bool_) for name, each in series.items()}
