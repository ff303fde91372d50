"""What is wrong with each row, counted shard by shard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.data import languages
from tasks.data.cleaning import content_keys, unusable
from tasks.data.expectations import Rule, Suite
from tasks.data.keys import write_keys
from tasks.data.mending import mend
from tasks.data.repairs import REPAIRS, repair
from tasks.data.rows import KNOWN_ROLES
from tasks.data.running import After, Facts
from tasks.data.shards import Mask, Turns, read_shard
from tasks.data.signals import Lengths, answer_is_prompt, spread
from tasks.data.spec import CleaningSpec
from tasks.data.traits import found_in
from tasks.encryption import arrays

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

EXAMPLES = 3


def _none(name: str, column: str) -> Rule:
    """A rule that a column holds nothing but 0."""
    return Rule(name, column, "column_values_to_be_in_set", {"value_set": [0]})


# Rule on each row, what is expected, and the cleaning rule that mends it ("" for none).
ROW_CHECKS: tuple[tuple[Rule, str, str], ...] = (
    (_none("roles_known", "unknown_roles"), "roles system, user, assistant, tool", "unknown_role"),
    (
        Rule("has_answer_turn", "answer_turns", "column_values_to_be_between", {"min_value": 1}),
        "an assistant turn",
        "no_assistant_turn",
    ),
    (_none("answer_present", "empty_answers"), "answers that are not empty", "empty_answer"),
    (_none("prompt_present", "empty_prompt"), "prompts that are not empty", "empty_prompt"),
    (_none("encoding_right", "mojibake"), "no mis-decoded text", "repair_encoding"),
    (_none("encoding_whole", "lost"), "no U+FFFD (lost characters)", ""),
    (_none("no_control_characters", "control"), "no control or zero-width characters", "strip_control"),
    (_none("trimmed", "untrimmed"), "turns without space at their ends", "strip_whitespace"),
    (_none("answer_is_not_prompt", "echo"), "answers other than the prompt", ""),
)
DROPS = ("unknown_role", "no_assistant_turn", "empty_answer", "empty_prompt")


@dataclass(frozen=True)
class CheckJob:
    """The checks of one shard.

    Args:
        name: of the shard's file.
        start: the number of its first row.
        path: the raw shard.
        work: folder for the keys of its rows.
        task: what the rows are for.
        cleaning: which repairs will be made.
        escaped: the sources whose line breaks were written as backslash and n.
    """

    name: str
    start: int
    path: Path
    work: Path
    task: str
    cleaning: CleaningSpec
    escaped: frozenset[int]

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The keys of the rows, as cleaning will leave them, whether each is usable, and the columns for the rules."""
        return self.keys, self.usable, self.columns

    @property
    def keys(self) -> Path:
        """The keys' file."""
        return self.work / "contents" / f"{self.name}.npy"

    @property
    def usable(self) -> Path:
        """The flags' file."""
        return self.work / "usable" / f"{self.name}.npy"

    @property
    def columns(self) -> Path:
        """The columns' file."""
        return self.work / "columns" / f"{self.name}.npy"


@dataclass(frozen=True)
class RuleJob(After[CheckJob]):
    """The rules over the columns of one shard."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """None: what is found is all."""
        return ()


@dataclass
class Totals:
    """What was counted over all shards."""

    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    repeated: int = 0
    repeated_usable: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    @property
    def without_answer(self) -> int:
        """Rows whose answer is empty or missing."""
        return self.reasons["empty_answer"] + self.reasons["no_assistant_turn"]

    def add(self, facts: Facts) -> None:
        """Add what was counted in a shard."""
        self.rows += facts["rows"]
        for name in ("reasons", "labels", "languages"):
            getattr(self, name).update(facts[name])
        self.lengths.update({int(length): count for length, count in facts["lengths"].items()})
        self.missing = (self.missing + facts["missing"])[:EXAMPLES]
        self.add_broken(facts)

    def add_broken(self, facts: Facts) -> None:
        """Add the rows of a shard that break rules."""
        self.broken.update(facts["broken"])
        for name, places in facts["examples"].items():
            self.examples[name] = (self.examples.get(name, []) + places)[:EXAMPLES]

    def variation(self) -> float:
        """The coefficient of variation of the answers' lengths."""
        texts, total = self.lengths.total(), sum(length * count for length, count in self.lengths.items())
        return spread(Lengths(texts, total, sum(length**2 * count for length, count in self.lengths.items())))

    def length_at(self, share: float) -> int:
        """The answer length below which so many of the answers are, in characters."""
        wanted, seen = int(self.lengths.total() * share), 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen > wanted:
                return length
        return 0


def check_shard(job: CheckJob) -> Facts:
    """What is wrong with the rows of one shard, its columns for the rules, and the keys by which repeated rows are found."""
    table = read_shard(job.path)
    turns = Turns.of(table)
    columns = _columns(turns)
    arrays.save(job.columns, np.stack([columns[rule.column] for rule, _, _ in rules_for(job.task)], axis=1).astype(np.int8))
    mended = mend(turns, job.cleaning, table.column("source").to_numpy(), job.escaped).turns
    reasons = unusable(mended)
    like = found_in(turns, job.task, job.cleaning)
    write_keys(job.keys, content_keys(mended), np.arange(job.start, job.start + turns.count, dtype=np.int64))
    arrays.save(job.usable, reasons == "")
    answers = mended.answers.filter(mended.answers.str.strip_chars() != "")
    return {
        "rows": turns.count,
        "broken": {name: int(mask.sum()) for name, mask in like.items()},
        "examples": {name: _places(table, np.flatnonzero(mask)) for name, mask in like.items() if mask.any()},
        "reasons": dict(Counter(reasons.tolist())),
        "missing": _places(table, np.flatnonzero((reasons == "empty_answer") | (reasons == "no_assistant_turn"))),
        "lengths": dict(Counter(answers.str.len_chars().to_list())),
        "labels": dict(Counter(answers.to_list())) if job.task == "classification" else {},
        "languages": languages.count(mended.wholes),
    }


def check_rules(job: RuleJob) -> Facts:
    """How many rows of a shard break each rule, with the first of them."""
    import pandas as pd

    columns = [rule.column for rule, _, _ in rules_for(job.of.task)]
    found = _suite(job.of.task).count_unexpected(pd.DataFrame(arrays.load(job.of.columns), columns=columns))
    table = read_shard(job.of.path, ["file", "line"]) if any(rows for _, rows in found.values()) else None
    return {
        "broken": {name: count for name, (count, _) in found.items()},
        "examples": {name: _places(table, rows) for name, (_, rows) in found.items() if table and rows},
    }


@lru_cache(maxsize=4)
def _suite(task: str) -> Suite:
    return Suite([rule for rule, _, _ in rules_for(task)])


def _places(table: "pa.Table", rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
    """Where the first of some rows stand."""
    files, lines = table.column("file"), table.column("line")
    return [f"{files[int(row)].as_py()} line {lines[int(row)].as_py()}" for row in rows[:EXAMPLES]]


def rules_for(task: str) -> list[tuple[Rule, str, str]]:
    """The row checks that make sense for a task."""
    without = ("prompt_present", "answer_is_not_prompt") if task == "text" else ()
    return [entry for entry in ROW_CHECKS if entry[0].name not in without]


def _columns(turns: Turns) -> Mapping[str, Mask]:
    """A shard's columns for the rules."""
    answered = turns.last_answer >= 0
    empty = _mask(turns.content.str.strip_chars() == "")
    changed = {name: repair(turns.content, [name])[1].get(name) for name in REPAIRS}
    touched = {name: turns.any_of(_mask(mask)) for name, mask in changed.items() if mask is not None}
    return {
        "unknown_roles": turns.any_of(~_mask(turns.role.is_in(sorted(KNOWN_ROLES)))),
        "answer_turns": answered,
        "empty_answers": turns.any_of(turns.is_answer & empty),
        "empty_prompt": answered & _mask(turns.prompts.str.strip_chars() == ""),
        "lost": turns.any_of(_mask(turns.content.str.contains("\ufffd", literal=True))),
        "mojibake": touched["repair_encoding"],
        "control": touched["strip_control"],
        "untrimmed": touched["strip_whitespace"],
        "echo": _mask(answer_is_prompt(turns.prompts, turns.answers)),
    }


def _mask(series: "pl.Series") -> Mask:
    return np.asarray(series.to_numpy(), dtype=np.bool_)
