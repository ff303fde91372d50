"""What is wrong with each row, counted shard by shard."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data import languages
from tasks.data.cleaning import content_keys, unusable
from tasks.data.expectations import Rule, count_unexpected
from tasks.data.keys import write_keys
from tasks.data.mending import mend
from tasks.data.repairs import REPAIRS, repair
from tasks.data.rows import KNOWN_ROLES, normalized
from tasks.data.running import Facts
from tasks.data.shards import Turns, read_shard
from tasks.data.signals import Lengths, spread
from tasks.data.spec import CleaningSpec
from tasks.data.traits import found_in

EXAMPLES = 3


def _rule(name: str, column: str, kind: str = "in_set", **arguments: object) -> Rule:
    """A rule on the values of a column; one that counts is in order at 0."""
    kinds = {"in_set": "column_values_to_be_in_set", "at_least": "column_values_to_be_between"}
    kinds |= {"filled": "column_value_lengths_to_be_between", "without": "column_values_to_not_match_regex"}
    return Rule(name, column, kinds[kind], arguments or {"value_set": [0]})


# Rule on each row, what is expected, and the cleaning rule that mends it ("" for none).
ROW_CHECKS: tuple[tuple[Rule, str, str], ...] = (
    (_rule("roles_known", "unknown_roles"), "roles system, user, assistant, tool", "unknown_role"),
    (_rule("has_answer_turn", "answer_turns", "at_least", min_value=1), "an assistant turn", "no_assistant_turn"),
    (_rule("answer_present", "answer", "filled", min_value=1), "answers that are not empty", "empty_answer"),
    (_rule("prompt_present", "prompt", "filled", min_value=1), "prompts that are not empty", "empty_prompt"),
    (_rule("encoding_right", "mojibake"), "no mis-decoded text", "repair_encoding"),
    (_rule("encoding_whole", "text", "without", regex="\ufffd"), "no U+FFFD (lost characters)", ""),
    (_rule("no_control_characters", "control"), "no control or zero-width characters", "strip_control"),
    (_rule("trimmed", "untrimmed"), "turns without space at their ends", "strip_whitespace"),
    (_rule("answer_is_not_prompt", "echo"), "answers other than the prompt", ""),
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
        """The keys of the rows, as cleaning will leave them, and whether each is usable."""
        return self.keys, self.usable

    @property
    def keys(self) -> Path:
        """The keys' file."""
        return self.work / "contents" / f"{self.name}.npy"

    @property
    def usable(self) -> Path:
        """The flags' file."""
        return self.work / "usable" / f"{self.name}.npy"


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
        for name in ("broken", "reasons", "labels", "languages"):
            getattr(self, name).update(facts[name])
        self.lengths.update({int(length): count for length, count in facts["lengths"].items()})
        self.missing = (self.missing + facts["missing"])[:EXAMPLES]
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
    """What is wrong with the rows of one shard, and the keys by which repeated rows are found."""
    import pandas as pd

    table = read_shard(job.path)
    turns = Turns.of(table)
    files, lines = table.column("file"), table.column("line")
    columns = _columns(turns)
    found = count_unexpected(pd.DataFrame(columns), [rule for rule, _, _ in rules_for(job.task)])
    mended = mend(turns, job.cleaning, table.column("source").to_numpy(), job.escaped).turns
    reasons = unusable(mended)
    like = found_in(turns, job.task, job.cleaning)
    write_keys(job.keys, content_keys(mended), np.arange(job.start, job.start + turns.count, dtype=np.int64))
    job.usable.parent.mkdir(parents=True, exist_ok=True)
    np.save(job.usable, reasons == "", allow_pickle=False)
    answers = [answer for answer in mended.answers if answer.strip()]

    def places(rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        return [f"{files[int(row)].as_py()} line {lines[int(row)].as_py()}" for row in rows[:EXAMPLES]]

    return {
        "rows": turns.count,
        "broken": {name: count for name, (count, _) in found.items()} | {name: int(mask.sum()) for name, mask in like.items()},
        "examples": {name: places(rows) for name, (_, rows) in found.items() if rows}
        | {name: places(np.flatnonzero(mask)) for name, mask in like.items() if mask.any()},
        "reasons": dict(Counter(reasons.tolist())),
        "missing": places(np.flatnonzero((reasons == "empty_answer") | (reasons == "no_assistant_turn"))),
        "lengths": dict(Counter(map(len, answers))),
        "labels": dict(Counter(answers)) if job.task == "classification" else {},
        "languages": languages.count(mended.wholes),
    }


def rules_for(task: str) -> list[tuple[Rule, str, str]]:
    """The row checks that make sense for a task."""
    without = ("prompt_present", "answer_is_not_prompt") if task == "text" else ()
    return [entry for entry in ROW_CHECKS if entry[0].name not in without]


def _columns(turns: Turns) -> Mapping[str, Any]:
    """A shard's columns for the rules; 0 stands for "in order" in those that count."""
    every = np.ones(len(turns.row), dtype=np.bool_)
    answered = turns.last_answer >= 0
    empty = turns.any_of(turns.is_answer & (turns.content.str.strip_chars() == "").to_numpy())
    changed = {name: repair(turns.content, [name])[1].get(name) for name in REPAIRS}
    touched = {name: turns.any_of(mask.to_numpy()) if mask is not None else 0 for name, mask in changed.items()}
    known = np.asarray(turns.role.is_in(sorted(KNOWN_ROLES)).to_numpy(), dtype=np.bool_)
    prompts = turns.prompts.str.strip_chars()
    return {
        "unknown_roles": turns.count_of(~known),
        "answer_turns": turns.count_of(turns.is_answer),
        "answer": _present(answered, empty),
        "prompt": _present(answered, (prompts == "").to_numpy()),
        "text": turns.joined(every).to_list(),
        "mojibake": touched["repair_encoding"] + np.zeros(turns.count, dtype=np.int64),
        "control": touched["strip_control"] + np.zeros(turns.count, dtype=np.int64),
        "untrimmed": touched["strip_whitespace"] + np.zeros(turns.count, dtype=np.int64),
        "echo": _echoes(turns),
    }


def _present(there: NDArray[np.bool_], empty: NDArray[np.bool_]) -> NDArray[np.object_]:
    """None where there is nothing to look at, "" where it is empty."""
    found = np.full(len(there), "x", dtype=object)
    found[empty] = ""
    found[~there] = None
    return found


def _echoes(turns: Turns) -> NDArray[np.int64]:
    """Rows whose answer is their prompt, in lower case and single spaces."""
    answers, prompts = turns.answers.str.strip_chars(), turns.prompts.str.strip_chars()
    # Equal texts in single spaces have equally many letters: only such rows are looked at one by one.
    letters = [texts.str.replace_all(r"\s", "").str.len_chars() for texts in (answers, prompts)]
    near = np.flatnonzero(((letters[0] == letters[1]) & (answers != "")).to_numpy())
    found = np.zeros(turns.count, dtype=np.int64)
    for row in near:
        found[row] = normalized(answers[int(row)]) == normalized(prompts[int(row)])
    return found
