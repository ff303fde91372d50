"""The strategy `none`: the request's own settings and nothing else."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import ConfigDict

from tasks.contracts import Spec, Trial
from tasks.search.space import Settings, Space


class NoSearch(Spec):
    """Train with the settings of the request."""

    model_config = ConfigDict(title="None")

    kind: Literal["none"] = "none"
    adaptive: ClassVar[bool] = False

    def check(self, space: Space, trials: int) -> str:
        """Nothing is searched, so nothing is wrong."""
        return ""

    def propose(self, space: Space, told: Sequence[Trial], number: int, seed: int) -> Settings | None:
        """The control alone."""
        return dict(space.control) if number == 0 else None
