"""What the paraphrasing child process is told."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from tasks.contracts import Value


class ParaphraseJob(Value):
    """Everything the worker needs; the folders are local."""

    model: Path  # weights and tokenizer
    trust_remote_code: bool
    texts: Path  # shards: row, way (a number that decides how the model is asked), text
    out: Path  # gets the same shards, with the texts said in other words and finished: whether the model came to an end
    device: Literal["cpu", "cuda"]
    threads: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=1)
