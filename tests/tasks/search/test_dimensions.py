import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tasks.search.dimensions import Choice, Dimension, Integer, Number

POSITIONS = st.floats(0, 1, exclude_max=True)
ENDS = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)).map(sorted).filter(lambda ends: ends[0] < ends[1])


@pytest.mark.parametrize(
    ("log", "position", "value"),
    [(True, 0, 1e-5), (True, 0.5, 1e-4), (True, 0.25, 10**-4.5), (False, 0.5, 0.000505), (True, 1, 1e-3)],
)
def test_a_number_lies_where_the_scale_says(log: bool, position: float, value: float) -> None:
    number = Number(path="p", low=1e-5, high=1e-3, log=log)
    assert number.value_at(position) == pytest.approx(value, rel=1e-11)


def test_the_middle_of_two_powers_of_ten_is_a_power_of_ten() -> None:
    assert Number(path="p", low=1e-5, high=1e-3, log=True).spread(3) == [1e-5, 1e-4, 1e-3]
    assert Number(path="p", low=0, high=0.3).spread(4) == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(("position", "value"), [(0, 3), (0.2499, 3), (0.25, 4), (0.5, 5), (0.75, 6), (0.9999, 6)])
def test_whole_numbers_own_equal_widths(position: float, value: int) -> None:
    assert Integer(path="p", low=3, high=6).value_at(position) == value


def test_whole_numbers_by_logarithm_own_the_width_of_their_logarithm() -> None:
    # From 1 to below 8: a third of the cube for 1, for 2 and 3, and for 4 to 7.
    integer = Integer(path="p", low=1, high=7, log=True)
    values = [integer.value_at(position) for position in (0, 0.333, 0.334, 0.528, 0.529, 0.666, 0.667, 0.999)]
    assert values == [1, 1, 2, 2, 3, 3, 4, 7]


def test_a_grid_of_whole_numbers_repeats_none() -> None:
    assert Integer(path="p", low=1, high=64, log=True).spread(4) == [1, 4, 16, 64]
    assert Integer(path="p", low=1, high=2).spread(5) == [1, 2]
    assert Integer(path="p", low=-3, high=3).spread(3) == [-3, 0, 3]


def test_a_grid_of_whole_numbers_takes_the_nearest() -> None:
    assert Integer(path="p", low=1, high=15, log=True).spread(3) == [1, 4, 15]  # the root of 15 is 3.87
    assert Integer(path="p", low=1, high=10, log=True).spread(3) == [1, 3, 10]  # 3.16


def test_choices_own_equal_widths_and_keep_their_types() -> None:
    choice = TypeAdapter(Dimension).validate_python({"kind": "choice", "path": "p", "values": [True, 2, 0.5, "x"]})
    values = [choice.value_at(position) for position in (0, 0.26, 0.5, 0.99)]
    assert values == [True, 2, 0.5, "x"]
    assert [type(value) for value in values] == [bool, int, float, str]
    assert choice.spread(2) == [True, 2, 0.5, "x"]


@pytest.mark.parametrize(
    ("dimension", "count"),
    [
        (Number(path="p", low=0, high=1), math.inf),
        (Integer(path="p", low=-1, high=3), 5),
        (Choice(path="p", values=["a", "b"]), 2),
    ],
)
def test_values_are_counted(dimension: Any, count: float) -> None:
    assert dimension.count() == count


@given(ends=ENDS, position=POSITIONS, log=st.booleans())
def test_values_stay_between_the_ends(ends: list[int], position: float, log: bool) -> None:
    low, high = ends
    assert low <= Integer(path="p", low=low, high=high, log=log).value_at(position) <= high
    assert low / 7 <= Number(path="p", low=low / 7, high=high / 7, log=log).value_at(position) <= high / 7


@given(ends=ENDS, points=st.integers(2, 9), log=st.booleans())
def test_a_spread_rises_from_end_to_end(ends: list[int], points: int, log: bool) -> None:
    for dimension in (
        Integer(path="p", low=ends[0], high=ends[1], log=log),
        Number(path="p", low=ends[0], high=ends[1], log=log),
    ):
        values: list[Any] = dimension.spread(points)
        assert values == sorted(set(values))
        assert [values[0], values[-1]] == ends
        assert len(values) <= points


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "number", "low": 2, "high": 1}, "low 2.0 is not below high 1.0"),
        ({"kind": "integer", "low": 2, "high": 2}, "low 2 is not below high 2"),
        ({"kind": "number", "low": 0, "high": 1, "log": True}, "log needs a low above 0, found 0.0"),
        ({"kind": "number", "low": 0, "high": math.inf}, "finite number"),
        ({"kind": "integer", "low": 0, "high": 2.5}, "valid integer"),
        ({"kind": "choice", "values": ["a"]}, "at least 2"),
        ({"kind": "choice", "values": ["a", "b", "a"]}, "the value 'a' stands twice"),
    ],
)
def test_a_dimension_that_cannot_be_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Dimension).validate_python({"path": "p"} | content)
