"""What the page on data says, as plain tables and sentences; page, terminal and Markdown only lay it out."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from tasks.contracts import Check, Ledger, PreparedData, TokenizedSplit, ValidationReport
from tasks.reporting import facts, wording
from tasks.reporting.facts import Tile

Tone = Literal["good", "warn", "bad"]
_WORST_FIRST = ("fatal", "fixable", "info")
SEVERITIES = {"fatal": "fatal", "fixable": "fixable", "info": "note"}


def headline(data: PreparedData) -> str:
    """What went in and what came out, in one line."""
    ledger, splits = data.ledger, data.splits
    made = f", {wording.count(ledger.synthetic)} synthetic" if ledger.synthetic else ""
    return (
        f"{wording.some(ledger.rows_in, 'row')} in{made}, {wording.count(ledger.kept)} kept, "
        f"{wording.count(_gone(ledger))} dropped; {wording.count(splits.train.rows)} to train, "
        f"{wording.count(splits.validation.rows)} to validate, "
        f"{wording.count(splits.test.rows)} to test; {wording.some(data.tokenized.train.supervised_tokens, 'token')} to learn"
    )


def remarks(data: PreparedData) -> list[str]:
    """What to know beyond the headline, a sentence each."""
    found, _ = findings(data.validation)
    mended = sum(check.severity == "fixable" for check in found)
    notes = sum(check.severity == "info" for check in found)
    rows, tokens = cut_short(parts(data))
    out = []
    if mended:
        out.append(f"{wording.some(mended, 'finding')} of the checks {'was' if mended == 1 else 'were'} left to cleaning.")
    if notes:
        out.append(f"{wording.some(notes, 'finding')} {'is' if notes == 1 else 'are'} left to you: see the notes below.")
    if rows:
        out.append(f"{wording.some(rows, 'row')} were longer than a sequence, which cost {wording.some(tokens, 'token')}.")
    if unusable := sum(count.rows for part in parts(data) for count in part.dropped):
        out.append(f"{wording.some(unusable, 'kept row')} had nothing to learn as tokens and went too.")
    return [*out, *shared_and_made(data)] or ["Every check passed and nothing was cut short."]


def shared_and_made(data: PreparedData) -> list[str]:
    """A sentence on the rows that share text with held-out rows, and one on those that were made from others."""
    splits, out = data.splits, []
    if gone := sum(count.rows for count in splits.dropped):
        out.append(f"{wording.some(gone, 'row')} went since they share text with held-out rows.")
    if splits.synthetic:
        share = wording.percent(splits.synthetic / max(1, splits.train.rows))
        out.append(
            f"{wording.some(splits.synthetic, 'training row')} ({share}) were made from others: nothing shows that this helps "
            f"until a training without them is compared."
        )
    return out


def tone(data: PreparedData) -> Tone:
    """bad where a fatal check failed, warn where something is left to look at, else good."""
    found, _ = findings(data.validation)
    if any(check.severity == "fatal" for check in found):
        return "bad"
    lost = cut_short(parts(data))[0] or any(part.dropped for part in parts(data))
    return "warn" if lost or any(check.severity == "info" for check in found) else "good"


def stamp(data: PreparedData) -> str:
    """The verdict on the data in a few words."""
    return {
        "good": "Ready to train on",
        "warn": "Ready to train on, with something to look at",
        "bad": "Not fit to train on",
    }[tone(data)]


def tiles(data: PreparedData) -> list[Tile]:
    """The numbers to see first."""
    ledger, tokenized = data.ledger, data.tokenized
    largest = max(ledger.dropped, key=lambda count: count.rows, default=None)
    found, passed = findings(data.validation)
    rows, tokens = cut_short(parts(data))
    learned, all_tokens = tokenized.train.supervised_tokens, tokenized.train.tokens
    return [
        Tile("Rows kept", f"{wording.count(ledger.kept)} of {wording.count(ledger.rows_in)}", _made(ledger)),
        Tile(
            "Rows dropped", wording.count(_gone(ledger)),
            f"most of them: {wording.name(largest.reason).lower()}, {wording.count(largest.rows)}" if largest else "none",
        ),
        Tile("Quality", f"{data.validation.quality:.3f} of 1", f"{len(passed)} of {len(found) + len(passed)} checks passed"),
        Tile("Training rows", wording.count(data.splits.train.rows), _held_back(data)),
        Tile(
            "Tokens to learn", wording.count(learned),
            f"{wording.percent(learned / max(1, all_tokens))} of the training split's {wording.count(all_tokens)}",
        ),
        Tile(
            "Tokens cut off", wording.count(tokens),
            f"of {wording.some(rows, 'row')}, at {wording.count(tokenized.max_length)} tokens a sequence" if rows
            else f"no row is longer than {wording.count(tokenized.max_length)} tokens",
            "warn" if rows else "plain",
        ),
    ]  # fmt: skip


def _made(ledger: Ledger) -> str:
    made = f"and {wording.count(ledger.synthetic)} synthetic; " if ledger.synthetic else ""
    repairs = sum(count.rows for count in ledger.repaired)
    return made + (
        f"{wording.some(repairs, 'repair')} by {wording.some(len(ledger.repaired), 'rule')}" if repairs else "none repaired"
    )


def _held_back(data: PreparedData) -> str:
    splits, lost = data.splits, sum(count.rows for count in data.tokenized.train.dropped)
    gone = f"; {wording.count(lost)} of them gave no sequence" if lost else ""
    return f"{wording.count(splits.validation.rows)} to validate, {wording.count(splits.test.rows)} to test{gone}"


def _gone(ledger: Ledger) -> int:
    return sum(count.rows for count in ledger.dropped)


def findings(report: ValidationReport) -> tuple[list[Check], list[Check]]:
    """(the checks that did not pass, worst first; those that did)."""
    failed = [check for check in report.checks if not check.passed]
    return sorted(failed, key=lambda check: _WORST_FIRST.index(check.severity)), [c for c in report.checks if c.passed]


def formula(report: ValidationReport) -> str:
    """How the quality follows from its components."""
    terms = " + ".join(f"{c.weight:g} × {c.share:.3f}" for c in report.components)
    total = sum(component.weight for component in report.components)
    return f"({terms}) / {total:g} = {report.quality:.3f}" if terms else f"{report.quality:.3f}"


def split_rows(data: PreparedData) -> list[dict[str, Any]]:
    """One row a split: its rows, their share of all and where they lie."""
    found = [(name, getattr(data.splits, name)) for name in ("train", "validation", "test")]
    total = max(1, sum(part.rows for _, part in found))
    return [{"name": name, "rows": part.rows, "share": part.rows / total, "uri": part.uri} for name, part in found]


def parts(data: PreparedData) -> tuple[TokenizedSplit, TokenizedSplit, TokenizedSplit]:
    """The tokens of train, validation and test."""
    return data.tokenized.train, data.tokenized.validation, data.tokenized.test


def cut_short(found: Sequence[TokenizedSplit]) -> tuple[int, int]:
    """(rows, tokens) that the longest sequence cost."""
    return sum(part.truncated_rows for part in found), sum(part.truncated_tokens for part in found)


def token_quarantine(data: PreparedData) -> str:
    """Where the rows lie that had nothing to learn as tokens; "" where there are none."""
    lost = any(part.dropped for part in parts(data))
    return f"{data.tokenized.train.uri.rpartition('/')[0]}/quarantine" if lost else ""


def ledger_rows(ledger: Ledger) -> list[tuple[str, str]]:
    """What came in, what was kept, and what was dropped by which reason, as labels and numbers."""
    made = [("synthetic", wording.count(ledger.synthetic))] if ledger.synthetic else []
    return [
        ("rows in", wording.count(ledger.rows_in)),
        *made,
        ("rows kept", wording.count(ledger.kept)),
        ("rows dropped", wording.count(_gone(ledger))),
        *[(f"  {wording.name(c.reason).lower()}", wording.count(c.rows)) for c in ledger.dropped],
    ]


def lost_rows(found: Sequence[TokenizedSplit]) -> list[tuple[str, str]]:
    """What the longest sequence cost, as labels and numbers; nothing where it cost nothing."""
    rows, tokens = cut_short(found)
    gone = [count for part in found for count in part.dropped]
    cut = [("rows cut short", f"{wording.count(rows)}, {wording.count(tokens)} tokens lost")] if rows else []
    reasons = dict.fromkeys(count.reason for count in gone)
    return cut + [
        (f"  {wording.name(reason).lower()}", wording.count(sum(count.rows for count in gone if count.reason == reason)))
        for reason in reasons
    ]


def asked(request: BaseModel) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(what differs from its default, all else), as paths and values."""
    leaves = facts.flat(request.model_dump(mode="json"))
    changed = facts.flat(request.model_dump(mode="json", exclude_defaults=True))
    first = [path for path in leaves if path in changed]
    rest = [path for path in leaves if path not in changed]
    return [(path, facts.plain(leaves[path])) for path in first], [(path, facts.plain(leaves[path])) for path in rest]
