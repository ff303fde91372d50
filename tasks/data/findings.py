"""What is wrong with each row, counted over the shards of a dataset."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.data.cleaning import content_key, mend_messages
from tasks.data.expectations import Rule, count_unexpected
from tasks.data.repairs import CONTROL, REPAIRS, repair_encoding, strip_whitespace
from tasks.data.rows import KNOWN_ROLES, Row, answer_of, normalized, place_of, prompt_of, why_unusable
from tasks.data.spec import CleaningSpec

_EXAMPLES = 3


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


@dataclass
class Facts:
    """What is counted over all shards."""

    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    repeated: int = 0
    repeated_usable: int = 0
    lengths: list[int] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)

    @property
    def without_answer(self) -> int:
        """Rows whose answer is empty or missing."""
        return self.reasons["empty_answer"] + self.reasons["no_assistant_turn"]


def check_shard(shard: Sequence[Row], task: str, cleaning: CleaningSpec, facts: Facts) -> None:
    """Add what is wrong with the rows of one shard to `facts`."""
    import pandas as pd

    frame = pd.DataFrame([_flat(row) for row in shard])
    found = count_unexpected(frame, [rule for rule, _, _ in rules_for(task)])
    for name, (count, positions) in found.items():
        facts.broken[name] += count
        kept = facts.examples.setdefault(name, [])
        kept += [place_of(shard[position]) for position in positions][: _EXAMPLES - len(kept)]
    names = [name for name in REPAIRS if getattr(cleaning, name)]
    for row in shard:
        _count_row(row, names, task, facts)


def rules_for(task: str) -> list[tuple[Rule, str, str]]:
    """The row checks that make sense for a task."""
    without = ("prompt_present", "answer_is_not_prompt") if task == "text" else ()
    return [entry for entry in ROW_CHECKS if entry[0].name not in without]


def _flat(row: Row) -> dict[str, Any]:
    """A row's columns for the rules; 0 stands for "in order" in those that count."""
    messages = row["messages"]
    text = "\n".join(message["content"] for message in messages)
    answers = [m["content"].strip() for m in messages if m["role"] in ("assistant", "text")]
    prompt, answer = prompt_of(messages).strip(), answer_of(messages).strip()
    return {
        "unknown_roles": sum(message["role"] not in KNOWN_ROLES for message in messages),
        "answer_turns": len(answers),
        "answer": min(answers, key=len) if answers else None,
        "prompt": prompt if answers else None,
        "text": text,
        "mojibake": int(repair_encoding(text) != text),
        "control": int(CONTROL.search(text) is not None),
        "untrimmed": sum(strip_whitespace(m["content"]) != m["content"] for m in messages),
        "echo": int(bool(answer) and normalized(prompt) == normalized(answer)),
    }


def _count_row(row: Row, names: Sequence[str], task: str, facts: Facts) -> None:
    """Count what cleaning will make of a row."""
    messages, _ = mend_messages(row["messages"], names)
    reason = why_unusable(messages)
    facts.rows += 1
    facts.reasons[reason] += 1
    if reason in ("empty_answer", "no_assistant_turn") and len(facts.missing) < _EXAMPLES:
        facts.missing.append(place_of(row))
    key = content_key(messages)
    if key in facts.seen:
        facts.repeated += 1
        facts.repeated_usable += not reason
        examples = facts.examples.setdefault("no_exact_duplicates", [])
        examples += [place_of(row)][: _EXAMPLES - len(examples)]
    facts.seen.add(key)
    answer = answer_of(messages)
    if answer.strip():
        facts.lengths.append(len(answer))
    if task == "classification":
        facts.labels[answer] += 1
