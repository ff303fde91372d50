"""What the form is made of, and what a cache key sees of it."""

from typing import Any

import pytest

from tasks.data.shapes import SHAPES
from tasks.data.spec import ColumnsSpec, DataSpec


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.KIND)
def test_each_field_of_a_shape_can_be_named(shape: Any) -> None:
    fields = (*shape.REQUIRED, *shape.OPTIONAL)
    assert [field for field in fields if field not in ColumnsSpec.model_fields] == []


def test_only_named_columns_are_written_down() -> None:
    spec = DataSpec.model_validate({"source": "a.jsonl", "columns": {"question": "ask", "answer": ""}})
    assert spec.model_dump()["columns"] == spec.model_dump(mode="json")["columns"] == {"question": "ask"}
    assert DataSpec.model_validate(spec.model_dump()) == spec
    assert DataSpec(source="a.jsonl").model_dump()["columns"] == {}


def test_a_source_is_one_address_or_several() -> None:
    options = DataSpec.model_json_schema()["properties"]["source"]["anyOf"]
    assert [option["title"] for option in options] == ["One address", "Several addresses"]
    assert DataSpec(source="a.jsonl").sources() == DataSpec.model_validate({"source": [{"address": "a.jsonl"}]}).sources()
