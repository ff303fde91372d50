from pathlib import Path

import pytest
import yaml

from flows.request import FinetuneRequest

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


def test_the_examples_are_found() -> None:
    assert {"quickstart.yaml", "local-model.yaml", "hub-model.yaml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_valid_request(path: Path) -> None:
    request = FinetuneRequest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert FinetuneRequest.model_validate_json(request.model_dump_json()) == request
