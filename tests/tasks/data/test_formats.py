"""Every format reads the same rows, compressed or not, and says where a file is broken."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data import formats
from tasks.data.files import expand
from tasks.data.formats import json_lines
from tasks.data.formats.parts import WHOLE, Part
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
    "wrapped.json": (b'{"train": [["hi", 1]]}', r"holds one object, .*'train' \(a list of lists, 1 long\)"),
    "pretty.json": (b'{\n "question": "a",\n "answer": "b"\n}', r"holds one object, .*'question' \(str\)"),
    "one row.json": (b'{\n "messages": [{"role": "user"}]\n}', r"holds one object, .*'messages' \(a list of dicts, 1 long\)"),
    "cut set.json": (b'{\n "train": [\n {"a": 1}', r"line 3: the array has no end"),
    "cut object.json": (b'{\n "train": [{"a": 1}]\n', r"line 3: not JSON \(the object has no end\)"),
    "odd set.json": (
        b'{\n "train": [["a", "b"],\n ["c"]]}',
        r"line 3: an element of 'train' is \['c'\], expected a text and its",
    ),
    "twice.json": (b'{\n "a": [["a", "b"]],\n "a": [["c", "d"]]}', r"holds 'a' more than once"),
    "which.json": (b'{"a": [["a", "b"]], "b": [["c", "d"]]}', r"holds the sets a, b, and none that is plainly.*json#a\."),
    "digits.jsonl": (b'{"a": ' + b"1" * 5000 + b"}", r"line 1: not JSON \(Exceeds the limit"),
    "deep.jsonl": (b'{"a": ' + b"[" * 100_000, r"line 1: not JSON"),
    "marks.jsonl": (b'{"a": 1}\n\xef\xbb\xbf{"a": 1}\n', r"line 2: not JSON .*byte order mark stands in the middle"),
    "no.arrow": (b"not arrow at all", r"not a whole Arrow file after row 0"),
    "no.parquet.gz": (b"x", r"Unknown file suffix '.gz'.*Each but .parquet and .arrow"),
    "wide.jsonl": ('{"a": 1}'.encode("utf-16"), r"is UTF-16, expected UTF-8"),
    "more.csv": (b"a,b\n1,2\n1,2,3\n", r"line 3: 3 fields, but the header has 2"),
    "twice.csv": (b"a,a\n1,2\n", r"line 1: the header names 'a' twice"),
    "quote.csv": (b'a,b\n1,"2\n', r"line 2: unexpected end of data"),
    "no.parquet": (b"not parquet at all", r"not a whole Parquet file"),
    "no.jsonl.gz": (b"plain", r"cannot be read: Not a gzipped file"),
    "cut.jsonl.gz": (gzip.compress(LINES * 50_000)[:-3], r"cannot be read after line \d+: Compressed file ended"),
    "cut.csv.gz": (gzip.compress(b"a,b\n1,2\n" * 1)[:-3], r"cannot be read.*: Compressed file ended"),
    "no.jsonl.zst": (b"plain", r"cannot be read"),
    "no.xlsx": (b"x", r"Unknown file suffix '.xlsx'. .*Known: .arrow, .csv, .json"),
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


EXACT = (
    r'{"a": NaN, "b": 12345678901234567890123, "c": -9223372036854775809, "d": 1e999, "e": ["\\ud800", 18446744073709551616]}',
    '{"a": 18446744073709551615, "b": "12345678901234567890123", "c": [1.5, -0.0], "a": 2}',
    '{"a": "\u2028\x7f", "b": {"c": [[], {}]}}',
)


@pytest.mark.parametrize("line", EXACT)
def test_lines_mean_what_the_standard_library_reads(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n", encoding="utf-8")
    ((number, row),) = formats.read(str(tmp_path / "a.jsonl"), {})
    assert (number, repr(row)) == (1, repr(json.loads(line)))


LINED = (
    b"", b"\n", b'{"a": 0}', b'\n\n{"a": 1}\r\n\n', b'\xef\xbb\xbf{"a": 2}\n{"a": "caf\xe9"}\n', LINES * 20,
    b"".join(b'{"a": "%s"}\n' % (b"x" * (n % 37)) for n in range(200)) + b'{"a": 1}',
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000, 1 << 20])
@pytest.mark.parametrize("content", LINED)
def test_parts_read_what_the_whole_does(tmp_path: Path, content: bytes, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    parts = json_lines.parts(str(path), {}, size)
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == len(content)
    for part in parts:
        assert part.first_line == content[: part.start].count(b"\n") + 1
        assert part.start == 0 or content[part.start - 1 : part.start] == b"\n"
    read = [row for part in parts for row in json_lines.read_part(str(path), {}, part)]
    assert read == list(json_lines.read(str(path), {}))
    longest = max(map(len, content.split(b"\n"))) + 1
    assert all(part.end - part.start < size + longest for part in parts if part.end is not None)


def test_parts_go_over_several_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINED[-1])
    expected = {size: json_lines.parts(str(path), {}, size) for size in (1, 100, 999)}
    for chunk in (1, 5, 64):
        monkeypatch.setattr(json_lines, "_CHUNK", chunk)
        assert {size: json_lines.parts(str(path), {}, size) for size in expected} == expected


def test_a_part_names_lines_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES * 10 + b"broken\n")
    *_, last = json_lines.parts(str(path), {}, 100)
    assert last.first_line > 10
    with pytest.raises(DatasetError, match="line 21: not JSON"):
        list(json_lines.read_part(str(path), {}, last))


def test_what_cannot_be_cut_is_one_part(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES * 10))
    (tmp_path / "a.json").write_text(json.dumps(ROWS * 10))
    for name in ("a.jsonl.gz", "a.json"):
        assert formats.parts(str(tmp_path / name), {}, 1) == [WHOLE]
        assert len(list(formats.read_part(str(tmp_path / name), {}, WHOLE))) == 20


def test_parquet_parts_are_row_groups(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": list(range(10))}), path, row_group_size=3)
    parts = formats.parts(path, {}, 1)
    assert parts == [Part(0, 1, 1), Part(1, 2, 4), Part(2, 3, 7), Part(3, 4, 10)]
    assert [row for part in parts for row in formats.read_part(path, {}, part)] == list(formats.read(path, {}))
    assert list(formats.read_part(path, {}, parts[2])) == [(7, {"a": 6}), (8, {"a": 7}), (9, {"a": 8})]
    assert formats.parts(path, {}, 1 << 20) == [Part(0, 4, 1)]


SETS = {
    "train": ({"train": [["a", "x"]], "val": [["b", "y"]], "oos_train": [["c", "z"]]}, "", ["a"], "'train' is read, val"),
    "named": ({"train": [["a", "x"]], "val": [["b", "y"]]}, "#val", ["b"], "the set 'val' is read, train left out"),
    "by another name": ({"train": [["a", "x"]], "val": [["b", "y"]]}, "#validation", ["b"], "the set 'val' is read"),
    "two": ({"a": [["a", "x"]], "b": [["b", "y"]]}, "#b,a", ["a", "b"], ""),
    "the only one": ({"version": "1", "data": [{"text": "a"}]}, "", ["a"], "no set and left out: 'version' (str)"),
    "not for tests": ({"data": [{"text": "a"}], "test": [{"text": "b"}]}, "", ["a"], "the set 'data' is read, test left out"),
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", SETS)
def test_an_object_of_sets(tmp_path: Path, name: str, indent: int | None) -> None:
    content, wanted, texts, note = SETS[name]
    (tmp_path / "a.json").write_text(json.dumps(content, indent=indent))
    address = f"{tmp_path}/a.json{wanted}"
    assert formats.format_of(address, {}).KIND == "json_sets"
    assert [row["text"] for _, row in formats.read(address, {})] == texts
    assert note in formats.note_of(address, {})


def test_one_row_with_a_list_is_no_object_of_sets(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", "choices": [{"text": "x"}]}
    (tmp_path / "line.json").write_text(json.dumps(row))
    (tmp_path / "pretty.json").write_text(json.dumps(row, indent=1))
    assert list(formats.read(f"{tmp_path}/line.json", {})) == [(1, row)]
    with pytest.raises(DatasetError, match=r"holds one object.*or name it: .*pretty.json#choices"):
        list(formats.read(f"{tmp_path}/pretty.json", {}))
    assert [row for _, row in formats.read(f"{tmp_path}/pretty.json#choices", {})] == [{"text": "x"}]


def test_pairs_are_texts_with_labels(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"train": [\n["hi", "greet"],\n["bye",\n"leave"]]}')
    rows = [(3, {"text": "hi", "label": "greet"}), (4, {"text": "bye", "label": "leave"})]
    assert list(formats.read(f"{tmp_path}/a.json", {})) == rows


def test_a_set_is_named_only_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b#1.jsonl").write_bytes(LINES)
    with pytest.raises(DatasetError, match=r"a.jsonl#train: #train names a set, but .*a.jsonl holds only one"):
        formats.format_of(f"{tmp_path}/a.jsonl#train", {})
    (tmp_path / "a.json").write_text('{"train": [["a", "b"]]}')
    with pytest.raises(DatasetError, match=r"Unknown set 'tarin'. Did you mean 'train'"):
        list(formats.read(f"{tmp_path}/a.json#tarin", {}))
    assert len(list(formats.read(f"{tmp_path}/b#1.jsonl", {}))) == 2


def test_a_long_first_line_is_not_held_to_tell_the_format(tmp_path: Path) -> None:
    wide = [["x" * 3000, "y"]] * 400
    (tmp_path / "sets.json").write_text(json.dumps({"train": wide}))
    (tmp_path / "row.json").write_text(json.dumps({"messages": [{"role": "user", "content": "x" * 2_000_000}]}))
    kinds = [formats.format_of(f"{tmp_path}/{name}.json", {}).KIND for name in ("sets", "row")]
    assert kinds == ["json_sets", "json_lines"]
    assert len(list(formats.read(f"{tmp_path}/sets.json", {}))) == 400
