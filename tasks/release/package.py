"""The card and the list of files that travel with a released model."""

import json
from pathlib import Path

from tasks.contracts import EvaluationReport, ExportedModel, PreparedData, TrainedModel
from tasks.storage import records_of

MANIFEST = "MANIFEST.json"


def write_package(
    folder: Path, name: str, export: ExportedModel, model: TrainedModel, data: PreparedData, report: EvaluationReport
) -> None:
    """Put the model card and MANIFEST.json (sha256 of every other file, written last) into `folder`."""
    (folder / "README.md").write_text(model_card(name, export, model, data, report), encoding="utf-8")
    files = [record.model_dump() for record in records_of(folder) if record.path != MANIFEST]
    content = {"name": name, "format": export.format, "model_sha256": model.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")


def model_card(name: str, export: ExportedModel, model: TrainedModel, data: PreparedData, report: EvaluationReport) -> str:
    """A model card with the hub's front matter."""
    ledger = data.ledger
    scores = "\n".join(
        f"| {score.benchmark} | {score.metric} | {score.model} | {score.value:.4f} | "
        f"{score.low:.4f} to {score.high:.4f} | {score.n} |"
        for score in report.scores
    )
    dropped = ", ".join(f"{count.rows} {count.reason}" for count in ledger.dropped) or "none"
    reasons = "\n".join(f"- {reason}" for reason in (*report.verdict.reasons, *model.plan.reasons))
    settings = "\n".join(f"- {key}: {value}" for key, value in sorted(model.settings.items()))
    return f"""---
library_name: {"peft" if export.format == "adapter" else "transformers"}
base_model: {json.dumps(model.base.uri)}
pipeline_tag: text-generation
tags: [tuneflow, {model.method}]
---
# {name}

{model.base.uri} ({model.base.parameters:,} parameters, sha256 {model.base.sha256[:12]}) tuned by
{model.method} on {data.raw.name}.

## Scores on held-out rows
| benchmark | metric | model | value | {report.confidence:.0%} interval | n |
|---|---|---|---|---|---|
{scores}

## Data
- sha256 {data.tokenized.sha256}; {ledger.rows_in} rows in, {ledger.kept} kept, dropped: {dropped}
- {data.tokenized.train.tokens:,} training tokens, {data.tokenized.train.supervised_tokens:,} of them learned
- chat template: {data.tokenized.template_source}, sha256 {data.tokenized.template_sha256[:12]}

## Training
- {model.steps} steps, best step {model.best_step}, {model.seconds:.0f} s, seed {model.seed}
{settings}

## Why
{reasons}

## Limits
It was measured on rows like those it learned from; what it does elsewhere was not measured. The licences of the base model
and of the data hold for this model too.
"""
