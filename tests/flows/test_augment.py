"""`tuneflow prepare` with few rows: synthetic ones are added by edits and by a model, and the page says so."""

import json
import shutil
from pathlib import Path

import pytest

from tasks.contracts import ModelRef, PreparedData
from tasks.data.shards import read_rows
from tests.flows.conftest import Ended, tuneflow, write_request
from tests.tasks.test_models import byte_tokenizer

pytestmark = pytest.mark.slow

PLACES = ("harbour", "orchard", "garden", "kitchen", "museum", "station", "library", "bridge", "castle", "meadow", "tower")


@pytest.fixture(scope="module")
def folder(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with models/tiny."""
    made = tmp_path_factory.mktemp("augment")
    model = shutil.copytree(tiny_base.location, made / ".tuneflow" / "models" / "tiny")
    byte_tokenizer(eos_token="<end>").save_pretrained(model)
    return made


def prepare(folder: Path, **augmentation: object) -> Ended:
    rows = [
        {"question": f"Please, where is the {place} of town {n}?", "answer": f"{n} down."} for n in range(4) for place in PLACES
    ]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"source": "few.jsonl", "cleaning": {"near_duplicates": 0}, "augmentation": augmentation}
    request = write_request(folder, name="few", base_model={"uri": "models/tiny"}, data=data)
    return tuneflow("prepare", request, "--json", folder=folder)


def test_few_rows_become_more(folder: Path) -> None:
    ended = prepare(folder, minimum_rows=60, paraphrase="models/tiny")
    assert ended.code == 0, ended.err
    data = PreparedData.model_validate(ended.result)
    splits, tokens = data.splits, data.tokenized
    rows = list(read_rows(Path(splits.train.uri)))
    children = [row for row in rows if row["parent"] is not None]
    assert len(children) == splits.synthetic == len(rows) - data.clean.ledger.kept + splits.validation.rows + splits.test.rows
    assert splits.synthetic > 5
    assert {row["parent"] for row in children} <= {row["row"] for row in rows if row["parent"] is None}
    assert "paraphrase" not in {row["operation"] for row in children}  # the model knows nothing
    assert any(count.reason.startswith("paraphrase_") for count in splits.not_taken)
    assert tokens.train.sequences == splits.train.rows
    assert data.ledger.synthetic == splits.synthetic
    assert "were made from others" in (folder / ".tuneflow" / "runs" / "few" / "data.html").read_text(encoding="utf-8")
    again = prepare(folder, minimum_rows=60, paraphrase="models/tiny")
    assert PreparedData.model_validate(again.result).identity() == data.identity()
    steps = [json.loads(path.read_text()) for path in (folder / ".tuneflow" / "runs" / "few" / "steps").glob("*.json")]
    assert {step["step"]: step["cached"] for step in steps}["augment"] is True
    assert not list((folder / ".tuneflow").rglob("job.json"))


def test_a_paraphrasing_model_that_is_not_there(folder: Path) -> None:
    ended = prepare(folder, minimum_rows=60, paraphrase="models/none")
    assert ended.code == 2
    assert "models/none" in ended.err
