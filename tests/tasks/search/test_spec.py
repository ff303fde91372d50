from typing import Any

import pytest
from pydantic import ValidationError

from tasks.search.spec import SearchSpec, choose_steps
from tasks.search.strategies.none import NoSearch

SCHEMA = SearchSpec.model_json_schema()


def test_nothing_is_searched_unless_asked_for() -> None:
    assert SearchSpec().strategy == NoSearch()
    assert SearchSpec.model_validate({"strategy": {"kind": "none"}}) == SearchSpec()


@pytest.mark.parametrize(
    ("asked", "training", "steps", "why"),
    [
        (0, 400, 100, "a quarter of the training's 400"),
        (0, 401, 101, "a quarter"),
        (0, 1, 1, "a quarter"),
        (50, 400, 50, "50, as asked"),
        (500, 400, 400, "all of the training's, which has fewer than the 500 asked"),
    ],
)
def test_steps_of_a_trial(asked: int, training: int, steps: int, why: str) -> None:
    found, reason = choose_steps(asked, training)
    assert found == steps
    assert why in reason


@pytest.mark.parametrize(
    "content",
    [
        {"trials": 0}, {"trials": 1001}, {"parallel": 0}, {"parallel": 65}, {"steps": -1}, {"objectives": []},
        {"strategy": {"kind": "grid", "points": 1}}, {"strategy": {"kind": "random", "points": 3}},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SearchSpec.model_validate(content)


def test_a_setting_has_one_dimension() -> None:
    dimension = {"kind": "integer", "path": "method.rank", "low": 1, "high": 2}
    with pytest.raises(ValidationError, match=r"method\.rank stands twice"):
        SearchSpec.model_validate({"space": [dimension, dimension]})


def test_the_form_has_a_titled_tab_for_each_strategy_and_dimension() -> None:
    def titles(field: dict[str, Any]) -> list[str]:
        return [SCHEMA["$defs"][member["$ref"].rpartition("/")[2]]["title"] for member in field["oneOf"]]

    assert titles(SCHEMA["properties"]["strategy"])[:3] == ["None", "Random", "Grid"]
    assert titles(SCHEMA["properties"]["space"]["items"]) == ["Number", "Whole number", "Choice"]
    for model in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, field in model["properties"].items():
            assert name == "kind" or (field.get("title") and field.get("description")), name
