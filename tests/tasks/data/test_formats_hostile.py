"""Thousands of damaged and odd files: each is read with every line accounted for, or refused with its address and line."""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data import formats, shapes
from tasks.data.formats import json_lines
from tasks.errors import DatasetError

FILES = 300  # of each kind
COLUMNS = (
    "instruction", "input", "output", "response", "question", "answer", "answers", "context", "prompt", "completion", "text",
    "label", "messages", "conversations", "system", "tools", "role", "parent_id", "message_id", "message_tree_id", "replies",
    "chosen", "rejected", "rank", "deleted", "", " Text ", "ß",
)  # fmt: skip
TEXTS = (
    "", " ", "plain", "日本語", "a\nb", "a\r\nb", 'say "hi", then', "\x00", "\ud800", "x" * 5000, "1" * 30, "\u2028", "\ufeff",
    "NaN", "[", '[{"role": "user", "content": "q"}]', "\\n", "é\u0301", "]}", "\udfff\ud800",
)  # fmt: skip
NUMBERS = (0, -1, 1.5, 10**30, -(2**63) - 1, 2**64, float("nan"), float("inf"), 5e-324, True, False, None)
WHERE = re.compile(
    r" line \d+|after line \d+|after row \d+| is empty\.| is UTF-16,|holds one object, expected rows|more than once\. Rename"
    r"|holds the sets |cannot be read: "
)


def value(random: Random, depth: int = 0) -> Any:
    """Anything that JSON can say, and some that it cannot."""
    kind = random.random()
    if kind < 0.55:
        return random.choice(TEXTS)
    if kind < 0.75 or depth > 3:
        return random.choice(NUMBERS)
    if kind < 0.9:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    names = ("role", "content", "from", "value", "text", "weight", "tool_calls", "replies", "deleted", "x")
    return {random.choice(names): value(random, depth + 1) for _ in range(random.randrange(4))}


def rows_of(random: Random) -> list[dict[str, Any]]:
    columns = random.sample(COLUMNS, random.randrange(1, 5))
    return [
        {name: value(random) for name in columns if random.random() < 0.95} | ({"odd": 1} if random.random() < 0.1 else {})
        for _ in range(random.randrange(1, 12))
    ]


def encode(random: Random, text: str) -> bytes:
    """UTF-8 mostly, with lone surrogates as broken bytes."""
    if random.random() < 0.08:
        return text.encode(random.choice(["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8-sig"]), errors="replace")
    return text.encode("utf-8", errors="surrogatepass")


def cut(random: Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def flip(random: Random, content: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(random.randrange(1, 4)):
        if found:
            found[random.randrange(len(found))] = random.randrange(256)
    return bytes(found)


def insert(random: Random, content: bytes) -> bytes:
    odd = (
        b"\0", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\xe9", b"[" * 3000, b'{"a":' * 3000, b"}", b"]", b",", b'"',
        b"NaN", b'"a": 1, "a": 2, ', b"\n[1]\n", b"\n1\n", b"\nnull\n", b"1" * 5000,
        b"\\ud800", b"\x1a", b"{}", b"\n{}\n", b" ",
    )  # fmt: skip
    at = random.choice([0, len(content), random.randrange(len(content) + 1)])
    return content[:at] + random.choice(odd) + content[at:]


def line_ends(random: Random, content: bytes) -> bytes:
    return random.choice([content.replace(b"\n", b"\r\n"), content.replace(b"\n", b"\r"), content.rstrip(b"\n"), b""])


def damage(random: Random, content: bytes, whole: float = 0.3) -> bytes:
    if random.random() < whole:
        return content
    for _ in range(random.choice([1, 1, 1, 2])):
        content = random.choice([cut, flip, insert, line_ends])(random, content)
    return content


def as_lines(random: Random) -> bytes:
    lines = [json.dumps(row, ensure_ascii=random.random() < 0.5) for row in rows_of(random)]
    return encode(random, "\n".join(lines) + "\n")


def as_array(random: Random) -> bytes:
    return encode(random, json.dumps(rows_of(random), indent=random.choice([None, 0, 2]), ensure_ascii=random.random() < 0.5))


def as_sets(random: Random) -> bytes:
    pairs = [[random.choice(TEXTS), random.choice(TEXTS)] for _ in range(random.randrange(5))]
    content = {
        random.choice(["train", "a", "test", "messages"]): random.choice([pairs, rows_of(random), value(random)]) for _ in "ab"
    }
    return encode(random, json.dumps(content, indent=random.choice([None, 1]), ensure_ascii=random.random() < 0.5))


def as_table(random: Random) -> bytes:
    rows = rows_of(random)
    file = io.StringIO()
    writer = csv.writer(file, delimiter=random.choice(",;\t"), lineterminator=random.choice(["\n", "\r\n"]))
    writer.writerow(rows[0])
    writer.writerows([[str(cell) for cell in row.values()] for row in rows])
    return encode(random, file.getvalue())


def arrow_table(random: Random) -> pa.Table:
    count = random.randrange(1, 30)
    texts = [random.choice([text for text in TEXTS if text.isprintable()]) for _ in range(count)]
    columns: dict[str, Any] = {
        "text": pa.array(texts), "label": pa.array([random.choice([-1, 0, 1, 7, None]) for _ in range(count)], pa.int64()),
        "broken": pa.array([b"\xff\xfe", b"ok", None] * count, pa.binary())[:count].view(pa.string()),
        "messages": pa.array([[{"role": "user", "content": text}] for text in texts]),
        "when": pa.array([10**18] * count, pa.timestamp("us")),
    }  # fmt: skip
    names = random.sample(sorted(columns), random.randrange(1, 5))
    made = pa.table({name: columns[name] for name in names})
    metadata = random.choice([b"{}", b"oops", b"[1]", json.dumps({"info": {"features": {"label": {"names": ["no", "yes"],
                             "_type": "ClassLabel"}}}}).encode()])  # fmt: skip
    return made.replace_schema_metadata({b"huggingface": metadata})


def as_parquet(random: Random) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(arrow_table(random), sink, row_group_size=7)
    return bytes(sink.getvalue())


def as_arrow(random: Random) -> bytes:
    table, sink = arrow_table(random), pa.BufferOutputStream()
    new = random.choice([pa.ipc.new_stream, pa.ipc.new_file])
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return bytes(sink.getvalue())


def zipped(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content, mtime=0)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return bytes(sink.getvalue())


def text_of(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace")


def check_lines(content: bytes, rows: list[Any] | None, message: str) -> None:
    """Every line that is not blank is a row, or the first one that is none is named."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        assert "is UTF-16" in message
        return
    expected = []
    for number, line in enumerate(text_of(content).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            assert rows is None
            assert f" line {number}: " in message
            return
        expected.append((number, row))
    assert repr(rows) == repr(expected) or (not expected and "is empty" in message)


def check_json(content: bytes, rows: list[Any] | None, message: str) -> None:
    """What the standard library reads as an array of objects is read, and reads the same."""
    try:
        whole = json.loads(text_of(content))
    except (ValueError, RecursionError):
        return
    if isinstance(whole, list) and all(isinstance(row, dict) for row in whole):
        assert rows is not None, message
        assert repr([row for _, row in rows]) == repr(whole)
    elif rows is not None and isinstance(whole, dict):
        assert len(rows) == 1 or len(rows) in [len(part) for part in whole.values() if isinstance(part, list)]
    elif isinstance(whole, list):
        assert rows is None


def check_table(content: bytes, rows: list[Any] | None, message: str, usual: str = ",") -> None:
    """As many rows as there are records below the header, each with its own line."""
    if rows:
        first = text_of(content).split("\n")[0]
        delimiter = usual if usual in first else next((other for other in ";\t|," if other in first), usual)
        _, *records = csv.reader(io.StringIO(text_of(content), newline="\n"), delimiter=delimiter)
        assert len(rows) == sum(map(bool, records))
        assert len({line for line, _ in rows}) == len(rows)
        assert [[cell for cell in row.values() if cell is not None] for _, row in rows] == [
            record for record in records if record
        ]


def check_binary(content: bytes, rows: list[Any] | None, message: str) -> None:
    if rows is not None:
        assert [line for line, _ in rows] == list(range(1, len(rows) + 1))
        if content.startswith(b"PAR1"):
            assert len(rows) == pq.read_metadata(io.BytesIO(content)).num_rows


Check = Callable[[bytes, list[Any] | None, str], None]
KINDS: dict[str, tuple[str, Callable[[Random], bytes], Check]] = {
    "lines": ("a.jsonl", as_lines, check_lines),
    "array": ("a.json", as_array, check_json),
    "sets": ("a.json", as_sets, check_json),
    "commas": ("a.csv", as_table, check_table),
    "tabs": ("a.tsv", as_table, partial(check_table, usual="\t")),
    "parquet": ("a.parquet", as_parquet, check_binary),
    "arrow": ("a.arrow", as_arrow, check_binary),
    "gz": ("a.jsonl.gz", as_lines, check_lines),
    "zst": ("a.jsonl.zst", as_lines, check_lines),
}


def read(address: str) -> tuple[list[Any] | None, str]:
    try:
        return list(formats.read(address, {})), ""
    except DatasetError as error:
        assert address in str(error)
        assert WHERE.search(str(error)), str(error)
        return None, str(error)


def map_rows(address: str, rows: list[Any]) -> None:
    raws = [row for _, row in rows]
    columns = list(dict.fromkeys(str(name) for row in raws for name in row))
    try:
        shape, fit = shapes.find_shape(address, columns, {}, raws, "auto")
        mapped = [shape.to_messages(row, fit.mapping) for _, row in shapes.gathered(shape, address, iter(rows))]
    except DatasetError as error:
        assert str(error).startswith(address)
        return
    for messages in mapped:
        for message in messages:
            assert set(message) - {"learn"} == {"role", "content"}
            message["role"].encode()
            message["content"].encode()
    assert len(mapped) == len(rows) or shapes.spans_lines(shape)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_files(kind: str, tmp_path: Path) -> None:
    name, make, check = KINDS[kind]
    path = tmp_path / name
    outcomes = {"read": 0, "refused": 0}
    for seed in range(FILES):
        random = Random(f"{kind} {seed}")
        content = stored = damage(random, make(random))
        if path.suffix in (".gz", ".zst"):
            stored = zipped(content, path.suffix)
            broken = random.random() < 0.3
            stored = random.choice([cut, flip])(random, stored) if broken else stored
        path.write_bytes(stored)
        rows, message = read(str(path))
        outcomes["read" if rows is not None else "refused"] += 1
        if stored == content or stored == zipped(content, path.suffix):
            check(content, rows, message)
        if rows:
            map_rows(str(path), rows)
        if name == "a.jsonl" and rows is not None:
            parts = json_lines.parts(str(path), {}, random.randrange(1, 200))
            again = [pair for part in parts for pair in json_lines.read_part(str(path), {}, part)]
            assert repr(again) == repr(rows)
    assert min(outcomes.values()) > FILES // 20
