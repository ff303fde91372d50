"""The strategy `random`: points that cover the space evenly, whatever their number (Sobol 1967)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import ClassVar, Literal

from pydantic import ConfigDict

from tasks.contracts import Spec, Trial
from tasks.search.space import Settings, Space

_BLOCK = 6  # log2 of the points drawn at first
_LAST = 16  # log2 of the points after which a space counts as exhausted


class Random(Spec):
    """Try settings at random, spread evenly over the space."""

    model_config = ConfigDict(title="Random")

    kind: Literal["random"] = "random"
    adaptive: ClassVar[bool] = False

    def check(self, space: Space, trials: int) -> str:
        """Any space can be searched: a small one ends early. One trial alone searches nothing."""
        if trials > 1:
            return ""
        return "search.trials is 1, which is the request's own settings alone; raise it to 2 or more"

    def propose(self, space: Space, told: Sequence[Trial], number: int, seed: int) -> Settings | None:
        """The control, then point after point of a scrambled Sobol sequence, without those that were there before."""
        return next(islice(_different(space, seed), number, None), None)


def _different(space: Space, seed: int) -> Iterator[Settings]:
    """The control and every settings that no earlier point gave."""
    yield dict(space.control)
    seen = {tuple(space.control.values())}
    limit = space.size() + (not space.control_is_inside())
    for point in _points(len(space.dimensions), seed):
        if len(seen) >= limit:
            return
        settings = space.at(point)
        if (key := tuple(settings.values())) not in seen:
            seen.add(key)
            yield settings


def _points(dimensions: int, seed: int) -> Iterator[Sequence[float]]:
    """Points of the unit cube: a Sobol sequence, scrambled by a random matrix and shift (Matousek 1998)."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(dimensions, scramble=True, rng=seed)
    yield from sequence.random_base2(_BLOCK)
    for power in range(_BLOCK, _LAST):  # each block doubles what was drawn, which keeps the sequence balanced
        yield from sequence.random_base2(power)
