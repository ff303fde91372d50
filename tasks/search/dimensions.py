"""The kinds of dimension of a search space; `Dimension` is the list of them.

A dimension has a literal `kind`, the `path` of the setting that varies and four methods: `value_at(position)` maps a position
in [0, 1) to a value, `spread(points)` returns that many values from end to end, `count()` how many values there are, and
`ends()` the values that show whether the setting takes them all.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tasks.contracts import Spec

Scalar = (
    Annotated[str, Field(title="Text")]
    | Annotated[int, Field(title="Whole number")]
    | Annotated[float, Field(title="Number")]
    | Annotated[bool, Field(title="Yes or no")]
)
_DIGITS = 12  # of a value between the ends: the middle of 1e-5 to 1e-3 is 1e-4, not 9.999999999999999e-05
SettingPath = Annotated[
    str,
    Field(
        min_length=1,
        title="Setting",
        description="Its path in the request, below method or training: training.learning_rate.",
    ),
]


class Number(Spec):
    """A number with a fraction, anywhere between two ends."""

    model_config = ConfigDict(title="Number")

    kind: Literal["number"] = "number"
    path: SettingPath
    low: float = Field(allow_inf_nan=False, title="Lowest", description="Any number; above 0 where log is on.")
    high: float = Field(allow_inf_nan=False, title="Highest", description="Any number above the lowest.")
    log: bool = Field(default=False, title="Logarithmic", description="Even in the logarithm: as often 1 to 10 as 10 to 100.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self)
        return self

    def value_at(self, position: float) -> float:
        """The value at a position from 0 (lowest) to 1 (highest)."""
        return min(max(_between(self.low, self.high, position, self.log), self.low), self.high)

    def spread(self, points: int) -> list[Scalar]:
        """That many different values, both ends among them; fewer only where the ends nearly meet."""
        return list(dict.fromkeys(self.value_at(at / (points - 1)) for at in range(points)))

    def count(self) -> float:
        """Without limit."""
        return math.inf

    def ends(self) -> list[Scalar]:
        """Lowest and highest."""
        return [self.low, self.high]


class Integer(Spec):
    """A whole number between two ends, both included."""

    model_config = ConfigDict(title="Whole number")

    kind: Literal["integer"] = "integer"
    path: SettingPath
    low: int = Field(ge=-(10**9), le=10**9, title="Lowest", description="-1000000000 to 1000000000; above 0 where log is on.")
    high: int = Field(ge=-(10**9), le=10**9, title="Highest", description="-1000000000 to 1000000000, above the lowest.")
    log: bool = Field(default=False, title="Logarithmic", description="Even in the logarithm: as often 1 to 9 as 10 to 99.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self)
        return self

    def value_at(self, position: float) -> int:
        """The value at a position in [0, 1): each whole number k owns the same width, or that of log k to log (k + 1)."""
        return min(max(math.floor(_between(self.low, self.high + 1, position, self.log)), self.low), self.high)

    def spread(self, points: int) -> list[Scalar]:
        """At most that many different values, both ends among them."""
        values = (_between(self.low, self.high, at / (points - 1), self.log) for at in range(points))
        return list(dict.fromkeys(math.floor(value + 0.5) for value in values))

    def count(self) -> float:
        """Every whole number from end to end."""
        return self.high - self.low + 1

    def ends(self) -> list[Scalar]:
        """Lowest and highest."""
        return [self.low, self.high]


class Choice(Spec):
    """One of a list of values."""

    model_config = ConfigDict(title="Choice")

    kind: Literal["choice"] = "choice"
    path: SettingPath
    values: list[Scalar] = Field(
        min_length=2, title="Values", description="At least two different ones, as they would stand in the request."
    )

    @field_validator("values")
    @classmethod
    def _differ(cls, values: list[Scalar]) -> list[Scalar]:
        if twice := [value for at, value in enumerate(values) if value in values[:at]]:
            raise ValueError(f"the value {twice[0]!r} stands twice; name each once")
        return values

    def value_at(self, position: float) -> Scalar:
        """The value at a position in [0, 1), of which each owns the same width."""
        return self.values[min(math.floor(position * len(self.values)), len(self.values) - 1)]

    def spread(self, points: int) -> list[Scalar]:
        """Every value, however many points are asked for."""
        return list(self.values)

    def count(self) -> float:
        """As many as are listed."""
        return len(self.values)

    def ends(self) -> list[Scalar]:
        """Every value."""
        return list(self.values)


Dimension = Annotated[Number | Integer | Choice, Field(discriminator="kind")]


def _check_range(dimension: Number | Integer) -> None:
    if dimension.low >= dimension.high:
        raise ValueError(f"low {dimension.low} is not below high {dimension.high}; swap them, or set the value itself")
    if dimension.log and dimension.low <= 0:
        raise ValueError(f"log needs a low above 0, found {dimension.low}; raise it, or leave log out")


def _between(low: float, high: float, share: float, log: bool) -> float:
    """The value at `share` of the way from `low` to `high`, by logarithm where `log`; exact at both ends."""
    if share <= 0 or share >= 1:
        return low if share <= 0 else high
    value = low ** (1 - share) * high**share if log else low * (1 - share) + high * share
    return float(f"{value:.{_DIGITS}g}")
