"""What the evaluating child process is told."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from tasks.contracts import TrainedModel, Value
from tasks.evaluation.benchmarks import Benchmark


class EvaluationJob(Value):
    """Everything the worker needs; the folders are local."""

    trained: TrainedModel
    trained_folder: Path  # the files of `trained.uri`
    tokenizer_folder: Path
    test_file: Path  # the Parquet file of a TokenizedSplit
    out: Path  # gets items.parquet and speed.json
    benchmarks: tuple[Benchmark, ...]
    seed: int
    precision: Literal["fp32", "bf16"]  # of the base weights
    device: Literal["cpu", "cuda"]
    batch_size: int = Field(ge=1)
    threads: int = Field(ge=1)
