"""The strategy `grid`: every combination of a few values of each dimension."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from tasks.contracts import Spec, Trial
from tasks.search.space import Settings, Space


class Grid(Spec):
    """Try every combination of a few values of each setting."""

    model_config = ConfigDict(title="Grid")

    kind: Literal["grid"] = "grid"
    adaptive: ClassVar[bool] = False
    points: int = Field(
        default=3, ge=2, le=100, title="Points", description="Values of each number, both ends among them, 2 to 100."
    )

    def check(self, space: Space, trials: int) -> str:
        """Refuse a grid that would be cut: its first part compares ends of some settings and nothing of others."""
        values = {dimension.path: dimension.spread(self.points) for dimension in space.dimensions}
        size = math.prod(map(len, values.values()))
        needed = size + any(own not in values[path] for path, own in space.control.items())
        if needed <= trials:
            return ""
        return (
            f"the grid has {size} points, which with the request's own settings takes {needed} trials, and search.trials is "
            f"{trials}; raise it, lower search.strategy.points ({self.points}), or use strategy random"
        )

    def propose(self, space: Space, told: Sequence[Trial], number: int, seed: int) -> Settings | None:
        """The control, then the grid's points, of which the first dimension changes fastest."""
        if number == 0:
            return dict(space.control)
        return next(islice(self._proposals(space), number - 1, None), None)

    def _proposals(self, space: Space) -> Iterator[Settings]:
        values = [dimension.spread(self.points) for dimension in reversed(space.dimensions)]
        paths = [dimension.path for dimension in space.dimensions]
        for point in product(*values):
            settings: Settings = dict(zip(paths, reversed(point), strict=True))
            if settings != space.control:
                yield settings
