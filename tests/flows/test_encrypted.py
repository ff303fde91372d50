"""A whole run on encrypted data: no word of a row lies anywhere in clear, and without the block's key none can be read."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from blocks.encryption import DataKey
from flows.finetune import finetune
from flows.prepare_data import prepare_data
from flows.request import FinetuneRequest
from flows.stage_requests import preparing
from tasks.contracts import FinetuneResult, ModelRef
from tasks.encryption.container import is_sealed
from tasks.encryption.keys import KEY_FILE
from tasks.errors import DatasetError, ServiceError
from tasks.evaluation.items import read_results
from tests.tasks.test_models import byte_tokenizer

pytestmark = pytest.mark.slow

MARKER = b"Zanzibarquokka"


@dataclass(frozen=True)
class Place:
    """A workspace with a model, rows beside it, and the folder of Prefect's database."""

    workspace: Path
    source: Path
    prefect: Path

    def request(self, **data: Any) -> FinetuneRequest:
        content = {
            "name": "secret", "base_model": {"uri": "models/tiny"}, "data": {"source": str(self.source), **data},
            "training": {"max_steps": 2, "batch_size": 4, "max_length": 128},
            "evaluation": {"benchmarks": [{"kind": "held_out", "items": 8, "generated_items": 4, "max_new_tokens": 4}]},
        }  # fmt: skip
        return FinetuneRequest.model_validate(content)


@pytest.fixture(scope="module")
def place(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("encrypted")
    workspace, source, prefect = folder / "workspace", folder / "rows.jsonl", folder / "prefect"
    prefect.mkdir()
    model = shutil.copytree(tiny_base.location, workspace / "models" / "tiny")
    byte_tokenizer(eos_token="<end>").save_pretrained(model)
    word = MARKER.decode()
    rows = [
        {"question": f"Where is {word} {n * n}?", "answer": f"Behind {word} {n * 7 + 1}." * (n % 20 > 0)} for n in range(120)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TUNEFLOW_WORKSPACE", str(workspace))
        patched.setenv("TMPDIR", str(prefect))  # the server's database lies there, and what others leave for a while
        patched.setattr(tempfile, "tempdir", None)
        patched.setenv("TUNEFLOW_PROCESSES", "2")
        with prefect_test_harness(server_startup_timeout=120):
            yield Place(workspace, source, prefect)


@pytest.fixture(scope="module")
def result(place: Place) -> FinetuneResult:
    DataKey.make().save("secret")
    return finetune(place.request(encryption="secret"))


def files_of(place: Place) -> list[Path]:
    return [path for folder in (place.workspace, place.prefect) for path in folder.rglob("*") if path.is_file()]


def test_no_file_of_the_workspace_holds_a_word_of_a_row(place: Place, result: FinetuneResult) -> None:
    assert result.data.raw.rows == 120
    assert {count.reason for count in result.data.clean.ledger.dropped} == {"empty_answer"}
    files = files_of(place)
    assert any(path.name == "items.parquet" for path in files)
    assert any(path.suffix == ".db" for path in place.prefect.rglob("*"))
    assert [path for path in files if MARKER in path.read_bytes()] == []
    rows = [path for path in files if path.suffix == ".parquet" or path.name == "golden.jsonl"]
    assert len(rows) > 6
    assert all(map(is_sealed, rows))


def test_the_key_lies_nowhere(place: Place, result: FinetuneResult) -> None:
    block = DataKey.load("secret")
    assert isinstance(block, DataKey)
    forms = (block.material(), block.material().hex().encode(), block.key.get_secret_value().encode())
    assert result.status
    assert [path for path in files_of(place) if any(form in path.read_bytes() for form in forms)] == []


def test_pages_show_counts_and_say_why_no_rows(place: Place, result: FinetuneResult) -> None:
    run = place.workspace / "runs" / "secret"
    for name in ("data.html", "report.html"):
        html = (run / name).read_text(encoding="utf-8")
        assert "The data are encrypted on disk, so this page shows none of their rows." in html
        assert "Empty answer" in html
    assert not (run / "tokens.html").exists()
    assert result.evaluation.examples == ()


def test_the_same_request_takes_its_data_from_the_cache(place: Place, result: FinetuneResult) -> None:
    data = prepare_data(preparing(place.request(encryption="secret")))
    assert data == result.data


def test_what_lies_in_clear_is_never_taken_for_encrypted_data_and_has_the_same_version(
    place: Place, result: FinetuneResult
) -> None:
    clear = prepare_data(preparing(place.request().model_copy(update={"name": "open"})))
    assert clear.tokenized.sha256 == result.data.tokenized.sha256
    assert clear.tokenized.train.uri != result.data.tokenized.train.uri
    assert any(MARKER in path.read_bytes() for path in Path(clear.clean.uri).rglob("part-*"))
    assert (place.workspace / "runs" / "open" / "tokens.html").exists()


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("nowhere", None, "data.encryption names the block 'nowhere', but Prefect has no tuneflow data key block"),
        (
            "short",
            "c2hvcnQ=",
            r"data\.encryption names the block 'short', but its key has 5 bytes, not 32\. Nothing was written",
        ),
    ],
)
def test_a_block_without_a_key_is_refused_before_anything_is_written(
    place: Place, name: str, key: str | None, said: str
) -> None:
    if key:
        DataKey(key=key).save(name)  # type: ignore[arg-type]
    request = preparing(place.request(encryption=name).model_copy(update={"name": f"refused-{name}"}))
    before = set(place.workspace.rglob("*"))
    with pytest.raises(ServiceError, match=said):
        prepare_data(request)
    cached = {path for path in set(place.workspace.rglob("*")) - before if "cache" in path.parts and path.is_file()}
    assert cached == set()


def test_without_its_block_the_data_are_gone(place: Place, result: FinetuneResult) -> None:
    DataKey.delete("secret")
    with pytest.raises(ServiceError, match="no tuneflow data key block"):
        prepare_data(preparing(place.request(encryption="secret")))
    with pytest.raises(DatasetError, match="where that block is gone, nobody can read the data again"):
        read_results(Path(result.evaluation.items_uri))
    DataKey.make().save("secret")  # another key: the data are made anew, beside what nobody can read
    again = prepare_data(preparing(place.request(encryption="secret")))
    assert again.raw.sha256 == result.data.raw.sha256
    assert again.raw.uri != result.data.raw.uri
    assert (Path(again.raw.uri) / KEY_FILE).is_file()
    assert os.environ["TUNEFLOW_WORKSPACE"] == str(place.workspace)
