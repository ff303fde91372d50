"""What the export process is told."""

from pathlib import Path

from pydantic import Field

from tasks.contracts import TrainedModel, Value
from tasks.release.exporters import Exporter


class ExportJob(Value):
    """One export of one model. `golden_file` holds JSON lines with prompt and input_ids."""

    trained: TrainedModel
    weights: Path
    tokenizer: Path
    golden_file: Path
    golden_prompts: int = Field(ge=1)
    exporter: Exporter
    out: Path
    threads: int = Field(ge=1)
    new_tokens: int = Field(default=16, ge=1)
