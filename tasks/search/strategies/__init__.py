"""Search strategies, one file each; this union is the list of them.

A strategy is a spec with a literal `kind` and what `Proposer` says. It keeps no state: what it proposes follows from the
space, the trials told, the number and the seed, so that a search that was killed goes on with the same proposals.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Protocol

from pydantic import Field

from tasks.contracts import Trial
from tasks.search.space import Settings, Space
from tasks.search.strategies.grid import Grid
from tasks.search.strategies.none import NoSearch
from tasks.search.strategies.random import Random

Strategy = Annotated[NoSearch | Random | Grid, Field(discriminator="kind")]


class Proposer(Protocol):
    """What every strategy can do.

    `adaptive` says whether `propose` reads the trials told: then trials run in rounds, each after the end of the one before.
    """

    adaptive: ClassVar[bool]

    @property
    def kind(self) -> str:
        """What the strategy is called in a request."""

    def check(self, space: Space, trials: int) -> str:
        """Why this space cannot be searched in that many trials; "" where it can."""

    def propose(self, space: Space, told: Sequence[Trial], number: int, seed: int) -> Settings | None:
        """The settings of trial `number`, which no lower number has; None where none are left. Trial 0 is the control."""
