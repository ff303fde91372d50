"""What each stage that can be started alone is told: which run, and the part of a request that concerns it."""

from typing import Annotated

from pydantic import ConfigDict, Field, field_validator

from flows.request import NAME_PATTERN, BaseModelSpec, FinetuneRequest
from tasks.contracts import Spec
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import EvaluationSpec
from tasks.release.spec import ReleaseSpec
from tasks.resources.spec import ResourceSpec
from tasks.search.dimensions import Scalar
from tasks.search.spec import SearchSpec
from tasks.search.strategies.grid import Grid
from tasks.search.strategies.none import NoSearch
from tasks.search.strategies.random import Random
from tasks.training.methods import Method
from tasks.training.methods.lora import Lora
from tasks.training.spec import TrainingSpec, usable_length


class StageRequest(Spec):
    """Which run a stage goes on with, and where its record lies."""

    run: str = Field(
        pattern=NAME_PATTERN, title="Run", description="Name of a run whose earlier stages are done, e.g. support-bot.",
    )  # fmt: skip
    store: str = Field(default="", title="Store block", description="The run's store block. Empty: the workspace's folder.")


class PrepareRequest(Spec):
    """Load, validate, clean, split and tokenize data for a model."""

    model_config = ConfigDict(title="Prepare data")

    name: str = Field(pattern=NAME_PATTERN, title="Name", description="Of the run: lower-case letters, digits and dashes.")
    base_model: BaseModelSpec = Field(title="Base model")
    data: DataSpec = Field(title="Data")
    max_length: int = Field(
        default=0, ge=0, le=1_048_576, title="Longest sequence",
        description="Tokens, 8 to 1048576; at most what the model holds. 0: 1024, or what the model holds where that is less.",
    )  # fmt: skip
    tracking: str = Field(default="", title="Tracking block", description="Name of an MLflow block. Empty: the workspace.")
    store: str = Field(default="", title="Store block", description="Name of a store block. Empty: the workspace's folder.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, title="Seed", description="Same seed, same result: 0 to 4294967295.")

    @field_validator("max_length")
    @classmethod
    def _holds_something(cls, length: int) -> int:
        return usable_length(length)

    def whole(self) -> FinetuneRequest:
        """The request that this is a part of, for its checks."""
        part = self.model_dump(exclude={"max_length"})
        return FinetuneRequest.model_validate({**part, "training": {"max_length": self.max_length}})


class TrainRequest(StageRequest):
    """Train a model on a run's prepared data."""

    model_config = ConfigDict(title="Train a model")

    method: Method = Field(default=Lora(), title="Method", description="Which weights learn; the tab says it.")
    training: TrainingSpec = Field(default=TrainingSpec(), title="Training")
    resources: ResourceSpec = Field(default=ResourceSpec(), title="Resources")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, title="Seed", description="Same seed, same result: 0 to 4294967295.")


class TrialSetting(Spec):
    """One setting of a trial."""

    path: str = Field(min_length=1, title="Path", description="Below method or training, e.g. training.learning_rate.")
    value: Scalar = Field(title="Value", description="What the setting is in this trial.")


class TrialRequest(TrainRequest):
    """Train for a few steps with some settings changed, and tell the validation loss."""

    model_config = ConfigDict(title="One trial of a search")

    number: int = Field(default=0, ge=0, le=100_000, title="Number", description="Of the trial, 0 to 100000.")
    settings: list[TrialSetting] = Field(
        default_factory=list, title="Settings", description="What differs from method and training."
    )
    steps: int = Field(default=50, ge=1, le=10_000_000, title="Steps", description="Optimizer steps, 1 to 10000000.")


class WantedSearch(SearchSpec):
    """How settings are searched."""

    # The first tab of the form is its default.
    strategy: Annotated[Random | Grid | NoSearch, Field(discriminator="kind")] = Field(
        default=Random(), title="Strategy", description="How other settings than these are chosen to be tried."
    )


class SearchRequest(TrainRequest):
    """Search settings on a run's prepared data."""

    model_config = ConfigDict(title="Search settings")

    search: WantedSearch = Field(default=WantedSearch(), title="Search")


class AssessRequest(StageRequest):
    """Examine a run's model."""

    model_config = ConfigDict(title="Assess a model")

    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), title="Evaluation")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, title="Seed", description="Same seed, same result: 0 to 4294967295.")


class ReleaseRequest(StageRequest):
    """Export and register a run's model, if it passed."""

    model_config = ConfigDict(title="Release a model")

    release: ReleaseSpec = Field(default=ReleaseSpec(), title="Release")


def preparing(request: FinetuneRequest) -> PrepareRequest:
    """The part of a whole request that concerns its data."""
    return PrepareRequest(
        name=request.name, base_model=request.base_model, data=request.data, max_length=request.training.max_length,
        tracking=request.tracking, store=request.store, seed=request.seed,
    )  # fmt: skip


def searching(request: FinetuneRequest) -> SearchRequest:
    """The part that concerns its training, and the search for its settings."""
    return SearchRequest(
        run=request.name, store=request.store, method=request.method, training=request.training, resources=request.resources,
        seed=request.seed, search=WantedSearch.model_validate(request.search.model_dump()),
    )  # fmt: skip


def assessing(request: FinetuneRequest) -> AssessRequest:
    """The part that concerns the evidence."""
    return AssessRequest(run=request.name, store=request.store, evaluation=request.evaluation, seed=request.seed)


def releasing(request: FinetuneRequest) -> ReleaseRequest:
    """The part that concerns the release."""
    return ReleaseRequest(run=request.name, store=request.store, release=request.release)
