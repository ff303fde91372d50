"""What the form in Prefect's UI is made from: the JSON schema of each deployment's request."""

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from flows import stage_requests
from flows.request import FinetuneRequest
from tasks.contracts import Spec
from tasks.maintenance.spec import MaintenanceSpec

FORMS = [
    FinetuneRequest, MaintenanceSpec, stage_requests.PrepareRequest, stage_requests.SearchRequest, stage_requests.TrainRequest,
    stage_requests.TrialRequest, stage_requests.AssessRequest, stage_requests.ReleaseRequest,
]  # fmt: skip
GOOD = {"name": "support-bot", "base_model": {"uri": "a"}, "data": {"source": "b"}}


def properties(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, field) of every field that the form shows."""
    schema = model.model_json_schema()
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        for field, content in part.get("properties", {}).items():
            yield f"{name}.{field}", content


def accepts(content: dict[str, Any]) -> bool:
    """Whether the server would take a request."""
    return bool(Draft202012Validator(FinetuneRequest.model_json_schema()).is_valid(content))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_each_field_has_a_title_and_a_meaning(form: type[BaseModel]) -> None:
    unnamed = [place for place, field in properties(form) if not field.get("title")]
    assert unnamed == []
    explained = {place for place, field in properties(form) if field.get("description") or "$ref" in field}
    assert [place for place, _ in properties(form) if place not in explained] == []


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_no_field_is_shown_as_raw_json_or_as_a_python_type(form: type[BaseModel]) -> None:
    for place, field in properties(form):
        assert field.get("type") != "object", place  # a mapping; a model is a reference
        assert "additionalProperties" not in field, place
        assert field.get("format") != "password", place
        for option in [*field.get("anyOf", []), *field.get("items", {}).get("anyOf", [])]:
            assert option.get("type") != "null", place
            assert "title" in option or "$ref" in option, place


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_order_of_the_fields_does_not_depend_on_the_database(form: type[BaseModel]) -> None:
    schema = form.model_json_schema()
    for part in [schema, *schema.get("$defs", {}).values()]:
        fields = part.get("properties", {})
        by_key = dict(sorted(fields.items(), key=lambda item: (len(item[0]), item[0])))  # as jsonb keeps them
        assert sorted(by_key, key=lambda name: by_key[name]["position"]) == list(fields)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_kind_can_only_be_chosen(form: type[BaseModel]) -> None:
    kinds = [field for place, field in properties(form) if place.endswith(".kind")]
    assert all(field["enum"] == [field["const"]] for field in kinds)


def test_a_spec_of_a_kind_alone_is_a_constant() -> None:
    definitions = FinetuneRequest.model_json_schema()["$defs"]
    assert definitions["Random"]["const"] == {"kind": "random"}
    assert definitions["Full"]["const"] == {"kind": "full"}
    assert "const" not in definitions["Grid"]


@pytest.mark.parametrize("name", ["a", "support-bot", "7", "a" * 63])
def test_the_server_takes_a_good_name(name: str) -> None:
    assert accepts({**GOOD, "name": name})
    assert FinetuneRequest.model_validate({**GOOD, "name": name}).name == name


@pytest.mark.parametrize("name", ["", "Support", "a b", "-a", "a-", "a_b", "a" * 64, "é"])
def test_the_server_refuses_what_pydantic_refuses(name: str) -> None:
    assert not accepts({**GOOD, "name": name})
    with pytest.raises(ValueError, match="use 1 to 63 lower-case letters"):
        FinetuneRequest.model_validate({**GOOD, "name": name})


@pytest.mark.parametrize(
    "change",
    [
        {"trainning": {}},
        {"training": {"epochs": -1}},
        {"data": {"source": "b", "columns": {"quesiton": "ask"}}},
        {"resources": {"devices": 0}},
        {"search": {"strategy": {"kind": "guess"}}},
    ],
)
def test_the_server_refuses_unknown_keys_and_values_out_of_range(change: dict[str, Any]) -> None:
    assert not accepts({**GOOD, **change})


def test_the_server_takes_what_a_stage_is_told_and_what_a_file_says() -> None:
    said = {
        **GOOD,
        "method": {"kind": "full"},
        "data": {"source": [{"address": "b", "weight": 2}, "c"], "columns": {"question": "ask"}},
        "search": {"strategy": {"kind": "random"}},
        "resources": {"devices": 2},
    }
    assert accepts(said)
    assert accepts(FinetuneRequest.model_validate(said).model_dump(mode="json"))


def test_the_form_of_a_search_begins_with_its_default() -> None:
    definitions = stage_requests.SearchRequest.model_json_schema()["$defs"]
    first = definitions["WantedSearch"]["properties"]["strategy"]["oneOf"][0]["$ref"].rsplit("/", 1)[-1]
    assert first == "Random" == type(stage_requests.WantedSearch().strategy).__name__
    assert issubclass(stage_requests.WantedSearch, Spec)
