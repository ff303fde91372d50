"""What can be asked of the search stage."""

from pydantic import Field, field_validator

from tasks.contracts import Spec
from tasks.search.dimensions import Dimension
from tasks.search.strategies import Strategy
from tasks.search.strategies.none import NoSearch


class SearchSpec(Spec):
    """How settings are searched."""

    strategy: Strategy = Field(
        default=NoSearch(), title="Strategy",
        description="How other settings than the request's are chosen to be tried. None: nothing is tried.",
    )  # fmt: skip
    trials: int = Field(
        default=16, ge=1, le=1000, title="Trials",
        description="Most trainings to compare, 1 to 1000. The first has the request's own settings.",
    )  # fmt: skip
    parallel: int = Field(default=1, ge=1, le=64, title="At a time", description="Trials that run at the same time, 1 to 64.")
    steps: int = Field(
        default=0, ge=0, le=10_000_000, title="Steps of a trial",
        description="Optimizer steps, 0 to 10000000. 0: a quarter of the training's.",
    )  # fmt: skip
    space: list[Dimension] = Field(
        default_factory=list, title="Space",
        description="Which settings vary, and between which values. Empty: those that matter most for the method.",
    )  # fmt: skip

    @field_validator("space")
    @classmethod
    def _names_each_once(cls, space: list[Dimension]) -> list[Dimension]:
        paths = [dimension.path for dimension in space]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"{', '.join(twice)} stands twice; give each setting one dimension")
        return space


def choose_steps(asked: int, training_steps: int) -> tuple[int, str]:
    """Optimizer steps of a trial, and why: as asked, but no more than the training's; 0: a quarter of them.

    Args:
        training_steps: of the training that the request asks for.
    """
    if not asked:
        steps = max(1, -(-training_steps // 4))
        return steps, f"steps of a trial: {steps}, a quarter of the training's {training_steps}"
    if asked > training_steps:
        return (
            training_steps,
            f"steps of a trial: {training_steps}, all of the training's, which has fewer than the {asked} asked",
        )
    return asked, f"steps of a trial: {asked}, as asked, of the training's {training_steps}"
