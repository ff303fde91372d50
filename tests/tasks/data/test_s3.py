"""Files on S3 are found and read like local ones, over a real server of its protocol on this machine."""

import json
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from blocks.access import DataAccess
from tasks.data import formats
from tasks.data.files import digest, expand, survey
from tasks.data.formats import json_lines
from tasks.data.loading import load, parts_of, peek
from tasks.data.spec import DataSpec, Source
from tasks.errors import DatasetError

ROWS = [{"question": f"why {n}?", "answer": "だから" * n} for n in range(50)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, Any]]:
    """What opens the server's addresses, by protocol."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e .[dev]")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "test", "secret": "test", "endpoint_url": f"http://{host}:{port}",
        "client_kwargs": {"region_name": "eu-central-1"},
        "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 5},
    }  # fmt: skip
    yield {"s3": options}
    server.stop()


@pytest.fixture
def put(s3: dict[str, Any], tmp_path: Path) -> Callable[[str, bytes], str]:
    """Puts a file into a bucket of the test's own; its address."""
    import fsspec

    filesystem = fsspec.filesystem("s3", skip_instance_cache=True, **deepcopy(s3["s3"]))
    bucket = f"bucket-{tmp_path.name.lower().replace('_', '-')}"[:60].rstrip("-")
    filesystem.mkdir(bucket)

    def pipe(name: str, content: bytes) -> str:
        filesystem.pipe_file(f"{bucket}/{name}", content)
        return f"s3://{bucket}/{name}"

    return pipe


def table() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=20)
    return bytes(sink.getvalue())


def test_every_format(s3: dict[str, Any], put: Any) -> None:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as file:
        file.write(LINES)
    contents = {
        "a.jsonl": LINES,
        "a.jsonl.zst": bytes(packed.getvalue()),
        "a.json": json.dumps(ROWS).encode(),
        "a.parquet": table(),
    }
    for name, content in contents.items():
        address = put(name, content)
        assert [row for _, row in formats.read(address, s3)] == ROWS
        assert digest(address, s3)[1] == len(content)


def test_folders_globs_and_single_files(s3: dict[str, Any], put: Any) -> None:
    addresses = [put(f"set/{name}", LINES) for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl")]
    put("set/README.md", b"about")
    root = addresses[0].removesuffix("/b.jsonl")

    def found(address: str) -> list[str]:
        return [name.removeprefix(root + "/") for name, _ in expand([Source(address=address)], s3, formats.SUFFIXES)]

    assert found(root) == found(f"{root}/") == ["a.jsonl", "b.jsonl", "deep/c.jsonl"]
    assert found(f"{root}/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert found(addresses[2]) == ["deep/c.jsonl"]
    assert survey([Source(address=root)], s3, formats.SUFFIXES).notes == [f"{root}: left out as no rows: README.md"]


def test_parts_of_a_file(s3: dict[str, Any], put: Any) -> None:
    for address in (put("a.jsonl", b"\xef\xbb\xbf" + LINES), put("a.parquet", table())):
        parts = formats.parts(address, s3, 1000)
        assert len(parts) > 2
        read = [pair for part in parts for pair in formats.read_part(address, s3, part)]
        assert read == list(enumerate(ROWS, 1))


def test_saved_dataset(s3: dict[str, Any], put: Any) -> None:
    sink = pa.BufferOutputStream()
    rows = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    put("set/data-00000-of-00001.arrow", bytes(sink.getvalue()))
    put("set/dataset_info.json", b"{}")
    state = put("set/state.json", b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    ((address, _),) = expand([Source(address=state.removesuffix("/state.json"))], s3, formats.SUFFIXES)
    assert [row for _, row in formats.read(address, s3)] == ROWS


def test_a_set_is_named_on_s3_too(s3: dict[str, Any], put: Any) -> None:
    address = put("a.json", json.dumps({"train": [["a", "x"]], "test": [["b", "y"]]}).encode())
    ((found, _),) = expand([Source(address=f"{address}#test")], s3, formats.SUFFIXES)
    assert list(formats.read(found, s3)) == [(1, {"text": "b", "label": "y"})]
    assert digest(found, s3) == digest(address, s3)


def test_a_file_that_came_later_is_found(s3: dict[str, Any], put: Any) -> None:
    root = put("set/a.jsonl", LINES).removesuffix("/a.jsonl")
    assert len(expand([Source(address=root)], s3, formats.SUFFIXES)) == 1
    put("set/b.jsonl", LINES)
    assert len(expand([Source(address=root)], s3, formats.SUFFIXES)) == 2


def test_options_are_given_not_found(s3: dict[str, Any], put: Any) -> None:
    before, environment = deepcopy(s3), dict(os.environ)
    address = put("a.jsonl", LINES)
    list(formats.read(address, s3))
    expand([Source(address=address)], s3, formats.SUFFIXES)
    assert s3 == before
    assert dict(os.environ) == environment
    assert not any(name.startswith("AWS_") for name in os.environ if os.environ[name] == "test")


def test_what_is_missing_is_said(s3: dict[str, Any], put: Any) -> None:
    address = put("train.jsonl", LINES)
    wrong = address.replace("train", "trian")
    with pytest.raises(DatasetError, match=r"trian.jsonl: no such file. The nearest there is 'train.jsonl'"):
        expand([Source(address=wrong)], s3, formats.SUFFIXES)
    with pytest.raises(DatasetError, match=r"trian.jsonl cannot be read"):
        list(json_lines.read(wrong, s3))
    with pytest.raises(DatasetError, match=r"s3://no-such-bucket/a.jsonl.* no such file"):
        expand([Source(address="s3://no-such-bucket/a.jsonl")], s3, formats.SUFFIXES)


def test_a_store_that_does_not_answer(s3: dict[str, Any]) -> None:
    away = {"s3": deepcopy(s3["s3"]) | {"endpoint_url": "http://127.0.0.1:9"}}
    with pytest.raises(DatasetError, match=r"s3://bucket/a.jsonl cannot be reached"):
        expand([Source(address="s3://bucket/a.jsonl")], away, formats.SUFFIXES)
    for read in (digest, lambda address, options: list(json_lines.read(address, options))):
        with pytest.raises(DatasetError, match=r"s3://bucket/a.jsonl cannot be read"):
            read("s3://bucket/a.jsonl", away)
    with pytest.raises(DatasetError, match=r"s3://bucket/a.json#train cannot be read"):
        formats.format_of("s3://bucket/a.json#train", away)


def test_a_block_opens_what_it_names(s3: dict[str, Any], put: Any, tmp_path: Path) -> None:
    more = SecretStr(json.dumps({"s3": {**s3["s3"]}}))
    block = DataAccess(key="test", secret=SecretStr("test"), endpoint_url=s3["s3"]["endpoint_url"])
    address = put("a.jsonl", LINES)
    for options in (block.options(), DataAccess(others=more).options()):
        raw = load("set", DataSpec(source=address), tmp_path / "out", "out", options)
        assert raw.rows == len(ROWS)
    wrong = block.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(DatasetError, match="cannot be reached"):
        load("set", DataSpec(source=address), tmp_path / "none", "none", wrong.options())


def test_no_job_shows_what_opens_its_file(s3: dict[str, Any], put: Any, tmp_path: Path) -> None:
    spec = DataSpec(source=put("a.jsonl", LINES))
    options = {"s3": s3["s3"] | {"key": "not-to-be-seen"}}
    jobs = parts_of(peek(spec, s3), spec, options, tmp_path, 10)
    assert jobs
    assert "not-to-be-seen" not in repr(jobs)
