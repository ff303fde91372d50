"""Every format reads the same rows, compressed or not, and says where a file is broken."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data import formats
from tasks.data.files import expand
from tasks.data.spec import Source
from tasks.errors import DatasetError

ROWS = [{"question": "why?", "answer": "so, yes"}, {"question": "two\nlines", "answer": "日本"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TEXTS = {
    "a.jsonl": (LINES, [1, 2]),
    "a.ndjson": (LINES, [1, 2]),
    "lines.json": (LINES, [1, 2]),
    "array.json": (json.dumps(ROWS, indent=1).encode(), [2, 6]),
    "flat.json": (json.dumps(ROWS).encode(), [1, 1]),
    "marked.jsonl": (b"\xef\xbb\xbf" + LINES, [1, 2]),
    "blank.jsonl": (b"\n\n" + LINES, [3, 4]),
    "a.csv": ('question,answer\nwhy?,"so, yes"\n"two\nlines",日本\n'.encode(), [2, 3]),
    "semicolon.csv": ('question;answer\nwhy?;so, yes\n"two\nlines";日本\n'.encode(), [2, 3]),
    "a.tsv": ('question\tanswer\nwhy?\tso, yes\n"two\nlines"\t日本\n'.encode(), [2, 3]),
}


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_formats(tmp_path: Path, name: str, compression: str) -> None:
    content, lines = TEXTS[name]
    path = tmp_path / (name + compression)
    if compression == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content)
    else:
        path.write_bytes(gzip.compress(content) if compression else content)
    assert list(formats.read(str(path), {})) == list(zip(lines, ROWS, strict=True))


def test_parquet_counts_rows_from_one(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert list(formats.read(str(tmp_path / "a.parquet"), {})) == [(1, ROWS[0]), (2, ROWS[1])]


def test_array_longer_than_one_read(tmp_path: Path) -> None:
    rows = [{"text": "x" * 700_000}, {"text": '"[{' * 400_000}, {"text": "end"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [row for _, row in formats.read(str(tmp_path / "a.json"), {})] == rows


BROKEN = {
    "cut.jsonl": (b'{"a": 1}\n{"a": 2}\n{"a": \n', r"line 3: not JSON .*one whole JSON object a line"),
    "list.jsonl": (b'{"a": 1}\n[1]\n', r"line 2: a JSON list, expected an object"),
    "cut.json": (b'[{"a": 1},\n{"a": 2},\n{"a"', r"line 3: not JSON"),
    "open.json": (b'[{"a": 1},\n', r"line 2: the array has no end"),
    "inner.json": (b'[{"a": 1},\n{"a": oops},\n{"a": 3}]', r"line 2: not JSON .*Mend or remove"),
    "after.json": (b'[{"a": 1}]\n[2]', r"line 2: text after the end"),
    "empty.jsonl": (b"\n", r"is empty"),
    "wrapped.json": (b'{"train": [["hi", "greet"]]}', r"holds one object, .*'train' \(a list of lists, 1 long\)"),
    "pretty.json": (b'{\n "data": [\n {"a": 1}\n ]\n}', r"holds one object, .*'data' \(a list of dicts, 1 long\)"),
    "wide.jsonl": ('{"a": 1}'.encode("utf-16"), r"is UTF-16, expected UTF-8"),
    "more.csv": (b"a,b\n1,2\n1,2,3\n", r"line 3: 3 fields, but the header has 2"),
    "twice.csv": (b"a,a\n1,2\n", r"line 1: the header names 'a' twice"),
    "quote.csv": (b'a,b\n1,"2\n', r"line 2: unexpected end of data"),
    "no.parquet": (b"not parquet at all", r"not a whole Parquet file"),
    "no.jsonl.gz": (b"plain", r"cannot be read: Not a gzipped file"),
    "no.jsonl.zst": (b"plain", r"cannot be read"),
    "no.xlsx": (b"x", r"Unknown file suffix '.xlsx'. .*Known: .csv, .json"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_say_where_and_what_to_do(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message) as error:
        list(formats.read(str(tmp_path / name), {}))
    assert name in str(error.value)


def test_bytes_that_are_no_utf8_become_replacement_characters(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    assert list(formats.read(str(tmp_path / "a.jsonl"), {})) == [(1, {"text": "caf\ufffd"})]


def test_folders_and_globs_are_sorted(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "sub/c.json.gz", "README.md", ".hidden.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def names(address: str) -> list[str]:
        return [found for found, _ in expand([Source(address=address)], {}, formats.SUFFIXES)]

    assert names(str(tmp_path)) == [f"{tmp_path}/a.csv", f"{tmp_path}/b.jsonl", f"{tmp_path}/sub/c.json.gz"]
    assert names(f"{tmp_path}/*.jsonl") == [f"{tmp_path}/b.jsonl"]


def test_all_missing_addresses_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}")
    sources = [Source(address=f"{tmp_path}/{name}") for name in ("trian.jsonl", "no/x.csv", "*.tsv")]
    with pytest.raises(DatasetError) as error:
        expand(sources, {}, formats.SUFFIXES)
    first, second, third = str(error.value).splitlines()
    assert first.endswith("trian.jsonl: no such file. The nearest there is 'train.jsonl'.")
    assert f"no folder {tmp_path}/no" in second
    assert "the glob matches no file" in third


def test_remote_addresses_and_options_stay_untouched() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/a.jsonl", LINES)
    options: dict[str, object] = {}
    found = expand([Source(address="memory://bucket/*.jsonl", weight=2)], options, formats.SUFFIXES)
    assert found == [("memory:///bucket/a.jsonl", 2.0)]
    assert [row for _, row in formats.read(found[0][0], options)] == ROWS
    assert options == {}


def test_unknown_protocol_is_an_error_of_the_data() -> None:
    with pytest.raises(DatasetError, match="nowhere://x cannot be reached"):
        expand([Source(address="nowhere://x")], {}, formats.SUFFIXES)
