"""The short forms of prepared data: plain text for a terminal, Markdown for the Prefect UI."""

from collections.abc import Sequence
from pathlib import Path

from tasks.contracts import PreparedData, StepRecord
from tasks.reporting import data_facts, facts, wording
from tasks.reporting.layout import markdown_table, markdown_text, two_columns


def console_table(name: str, data: PreparedData, steps: Sequence[StepRecord], folder: Path) -> str:
    """Prepared data for a terminal, at most 100 columns wide; `folder` holds the pages."""
    found, passed = data_facts.findings(data.validation)
    rows = [
        ("run", name),
        *_numbers(data),
        ("checks", f"{len(passed)} of {len(found) + len(passed)} passed" + (", the others:" if found else "")),
        *[(f"  {data_facts.SEVERITIES[c.severity]}", f"{wording.name(c.name)}: {c.found}") for c in found],
        ("page", str(folder / "data.html")),
        ("token by token", str(folder / "tokens.html")),
    ]
    return "\n".join([*two_columns(rows), facts.cache_line(steps)])


def markdown(data: PreparedData, page: Path) -> str:
    """Prepared data as Markdown: the headline, numbers and every check that did not pass."""
    found, _ = data_facts.findings(data.validation)
    checks = [(data_facts.SEVERITIES[c.severity], wording.name(c.name), c.expected, c.found) for c in found]
    parts = [
        f"**{markdown_text(data_facts.headline(data))}.**",
        markdown_text(" ".join(data_facts.remarks(data))),
        "## Rows and tokens",
        markdown_table(("What", "Number"), _numbers(data)),
        "## Checks that did not pass",
        markdown_table(("Severity", "Check", "Expected", "Found"), checks) if checks else "All passed.",
        f"The whole page: {markdown_text(str(page))}",
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(data: PreparedData) -> list[tuple[str, str]]:
    splits, train = data.splits, data.tokenized.train
    repaired = [(f"  {wording.name(c.reason).lower()}", wording.count(c.rows)) for c in data.ledger.repaired]
    lost = data_facts.lost_rows(data_facts.parts(data))
    return [
        *data_facts.ledger_rows(data.ledger),
        ("rows repaired", "by rule:" if repaired else "none"),
        *repaired,
        (
            "splits",
            f"{wording.count(splits.train.rows)} to train, {wording.count(splits.validation.rows)} to validate, "
            f"{wording.count(splits.test.rows)} to test",
        ),
        ("tokens to learn", f"{wording.count(train.supervised_tokens)} of {wording.count(train.tokens)} to train on"),
        *(lost or [("rows cut short", "none")]),
        ("quality", f"{data.validation.quality:.3f} of 1"),
        ("version", data.manifest.sha256[:12]),
    ]
