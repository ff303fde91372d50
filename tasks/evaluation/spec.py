"""What can be asked of the evaluation stage."""

from typing import Literal

from pydantic import Field

from tasks.contracts import Spec
from tasks.evaluation.benchmarks import Benchmark
from tasks.evaluation.benchmarks.held_out import HeldOut


class EvaluationSpec(Spec):
    """Which benchmarks are run and when a model is good enough."""

    benchmarks: list[Benchmark] = Field(
        default=[HeldOut()], min_length=1, title="Benchmarks", description="What the model is examined with; the first decides."
    )
    confidence: float = Field(
        default=0.95, ge=0.8, le=0.999, title="Confidence", description="How sure every interval and decision is, 0.8 to 0.999."
    )
    margin: float = Field(
        default=0.0, ge=0, title="Margin",
        description="How much better than the base a model must be, in units of the deciding metric, "
        "with that confidence, 0 or more. 0: any gain.",
    )  # fmt: skip
    metric: Literal["loss", "exact_match"] = Field(
        default="loss",
        title="Deciding metric",
        description="loss: nats per token of the right answers. exact_match: share of answers that are right.",
    )
    resamples: int = Field(
        default=10_000, ge=1_000, le=1_000_000, title="Resamples", description="Of bootstrap and permutation, 1000 to 1000000."
    )
