"""What a person is shown who decides about a release."""

import re

from tasks.contracts import EvaluationReport, TrainedModel


def question(name: str, model: TrainedModel, report: EvaluationReport, hours: float) -> str:
    """The evaluation in Markdown, for the dialog in which the answer is given."""
    rows = "\n".join(
        f"| {each.benchmark} {each.metric} | {each.against} | {each.difference:+.4g} | {each.low:+.4g} to {each.high:+.4g} | "
        f"{each.n} | {each.verdict} |"
        for each in report.comparisons
    )
    reasons = "\n".join(f"- {reason}" for reason in report.verdict.reasons)
    examples = "\n\n".join(
        f"> {_short(each.prompt)}\n\n"
        f"right: `{_short(each.reference)}` base: `{_short(each.base)}` tuned: `{_short(each.tuned)}`"
        for each in report.examples[:3]
    )
    return f"""# Release {name}?

Model `{model.sha256[:12]}`, {model.method} on {model.base.uri}. Its verdict: **{report.verdict.status}**.

{reasons}

| measure | against | difference | interval | n | |
|---|---|---|---|---|---|
{rows}

Differences are signed so that positive is better. {_examples_head(examples)}{examples}

Without an answer within {hours:g} hours it is not released.
"""


def _examples_head(examples: str) -> str:
    return "Some answers:\n\n" if examples else ""


def _short(text: str) -> str:
    words = re.sub(r"<\|[^|<>]*\|>", " ", text)  # marks of the chat template
    line = " ".join(words.split()).replace("`", "'")
    return line if len(line) <= 200 else line[:199] + "…"
