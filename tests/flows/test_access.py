"""Data behind a log-in: the block opens them, and what it holds is written nowhere."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness
from pydantic import SecretStr

from blocks.access import DataAccess
from flows.prepare_data import prepare_data
from flows.request import FinetuneRequest
from flows.stage_requests import preparing
from tasks.contracts import ModelRef
from tasks.errors import DatasetError, ServiceError
from tests.tasks.test_models import byte_tokenizer

pytestmark = pytest.mark.slow

SECRET, BUCKET = "quite-secret-word", "our-bucket"
ROWS = [{"question": f"Where is number {n * n}?", "answer": f"Behind number {n * 7 + 1}."} for n in range(60)]


@pytest.fixture(scope="module")
def workspace(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with models/tiny and a Prefect server; nothing in the environment opens S3."""
    folder = tmp_path_factory.mktemp("access") / "workspace"
    model = shutil.copytree(tiny_base.location, folder / "models" / "tiny")
    byte_tokenizer(eos_token="<end>").save_pretrained(model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TUNEFLOW_WORKSPACE", str(folder))
        patched.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            patched.delenv(name, raising=False)
        with prefect_test_harness(server_startup_timeout=120):
            yield folder


@pytest.fixture(scope="module")
def address(workspace: Path) -> Iterator[str]:
    """Rows on a server that speaks S3; the block `ours` opens it."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e .[dev]")
    import fsspec

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    block = DataAccess(key="our-key", secret=SecretStr(SECRET), endpoint_url=f"http://{host}:{port}")
    block.save("ours")
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True, **block.options()["s3"])
    filesystem.mkdir(BUCKET)
    filesystem.pipe_file(f"{BUCKET}/rows.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    yield f"s3://{BUCKET}/rows.jsonl"
    server.stop()


def request(address: str, name: str, access: str) -> FinetuneRequest:
    data = {"source": address, "access": access, "cleaning": {"near_duplicates": 0}}
    return FinetuneRequest.model_validate({"name": name, "base_model": {"uri": "models/tiny"}, "data": data})


def test_a_block_opens_the_source_and_its_secret_is_written_nowhere(workspace: Path, address: str) -> None:
    data = prepare_data(preparing(request(address, "opened", "ours")))
    assert data.ledger.rows_in == len(ROWS)
    files = [path for path in workspace.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_without_the_block_the_source_stays_shut(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=BUCKET):
        prepare_data(preparing(request(address, "shut", "")))


def test_a_block_that_is_not_there_is_named(address: str) -> None:
    with pytest.raises(
        ServiceError, match=r"data\.access names the block 'theirs', but Prefect has no tuneflow data access block"
    ):
        prepare_data(preparing(request(address, "missing", "theirs")))
