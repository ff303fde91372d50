"""Of a folder what holds rows is read, and what does not is named: plain folders, saved datasets, datasets on the hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from tasks.data import folders, formats
from tasks.data.files import Survey, expand, survey
from tasks.data.spec import Source
from tasks.errors import DatasetError

LINE = b'{"question": "q", "answer": "a"}\n'
CLASSES = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}})}
TABLE = pa.table({"text": ["a", "b", "c"], "label": [1, 0, -1]}).replace_schema_metadata(CLASSES)
NAMED = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}, {"text": "c", "label": None}]


def look(address: str) -> Survey:
    return survey([Source(address=address)], {}, formats.SUFFIXES)


def names(address: str, root: str) -> list[str]:
    return [found.removeprefix(root).lstrip("/") for found, _ in look(address).files]


def save(folder: Path, *tables: pa.Table, **state: Any) -> None:
    """What `Dataset.save_to_disk` writes, with pyarrow alone."""
    folder.mkdir(parents=True)
    files = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, table in zip(files, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    entries = [{"filename": name} for name in files]
    (folder / "state.json").write_text(json.dumps({"_data_files": entries, "_split": None, **state}))
    (folder / "dataset_info.json").write_text("{}")


def test_folders_and_globs_are_sorted_and_name_what_holds_no_rows(tmp_path: Path) -> None:
    others = ("README.md", ".hidden.jsonl", "_SUCCESS", "LICENSE", "dataset_infos.json", ".cache/d.jsonl", "sub/cache-1.arrow")
    for name in ("b.jsonl", "a.csv", "sub/c.json.gz", *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = look(str(tmp_path))
    assert [file for file, _ in found.files] == [f"{tmp_path}/a.csv", f"{tmp_path}/b.jsonl", f"{tmp_path}/sub/c.json.gz"]
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"{tmp_path}: left out as no rows: ")
    assert all(name in found.notes[0] for name in others)
    assert names(f"{tmp_path}/*.jsonl", str(tmp_path)) == ["b.jsonl"]
    assert look(f"{tmp_path}/[ab].*").notes == []
    assert look(f"{tmp_path}/*.json*").notes == [f"{tmp_path}/*.json*: left out as no rows: .hidden.jsonl, dataset_infos.json"]


def test_a_named_set_of_a_plain_folder(tmp_path: Path) -> None:
    for name in ("train.jsonl", "test.jsonl", "data/train-00000-of-00001.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(LINE)
    assert names(str(tmp_path), str(tmp_path)) == ["data/train-00000-of-00001.jsonl", "test.jsonl", "train.jsonl"]
    assert names(f"{tmp_path}#train", str(tmp_path)) == ["data/train-00000-of-00001.jsonl", "train.jsonl"]
    assert look(f"{tmp_path}#test").notes == [f"{tmp_path}#test: the set 'test' is read, train left out; name others with "
                                              f"e.g. #train at the end of the address"]  # fmt: skip
    with pytest.raises(DatasetError, match=r"Unknown set 'tset'. Did you mean 'test'"):
        look(f"{tmp_path}#tset")


def test_a_saved_dataset(tmp_path: Path) -> None:
    save(tmp_path / "set", TABLE, TABLE.slice(1))
    (tmp_path / "set" / "cache-f00.arrow").write_bytes(b"left by a map")
    files = [file for file, _ in look(str(tmp_path / "set")).files]
    assert files == [f"{tmp_path}/set/data-0000{n}-of-00002.arrow" for n in (0, 1)]
    rows = [list(formats.read(file, {})) for file in files]
    assert rows == [list(enumerate(NAMED, 1)), list(enumerate(NAMED[1:], 1))]


def test_a_dict_of_saved_datasets(tmp_path: Path) -> None:
    for name in ("train", "test"):
        save(tmp_path / "sets" / name, TABLE)
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert names(f"{tmp_path}/sets", f"{tmp_path}/sets") == ["train/data-00000-of-00001.arrow"]
    assert "the set 'train' is read, test left out" in look(f"{tmp_path}/sets").notes[0]
    assert names(f"{tmp_path}/sets#test", f"{tmp_path}/sets") == ["test/data-00000-of-00001.arrow"]
    with pytest.raises(DatasetError, match=r"Unknown set 'dev'. Known: test, train"):
        look(f"{tmp_path}/sets#dev")


@pytest.mark.slow
def test_what_datasets_itself_saves(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    made = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    made.save_to_disk(str(tmp_path / "one"), num_shards=2)
    DatasetDict({"train": made, "test": made.select([2, 0])}).save_to_disk(str(tmp_path / "two"))
    made.to_parquet(tmp_path / "a.parquet")
    read = {
        address: [row for file, _ in look(f"{tmp_path}/{address}").files for _, row in formats.read(file, {})]
        for address in ("one", "two", "two#test", "a.parquet")
    }
    assert read == {"one": NAMED, "two": NAMED, "two#test": [NAMED[2], NAMED[0]], "a.parquet": NAMED}


BROKEN_STATES = {
    "gone": ({"_data_files": [{"filename": "x.arrow"}]}, "its state.json names x.arrow, not found"),
    "empty": ({"_data_files": []}, "a saved dataset, but it holds no rows"),
    "selection": ({"_indices_data_files": [{"filename": "i.arrow"}]}, r"Call flatten_indices\(\)"),
}


@pytest.mark.parametrize("name", BROKEN_STATES)
def test_saved_datasets_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    state, message = BROKEN_STATES[name]
    save(tmp_path / "set", TABLE, **state)
    with pytest.raises(DatasetError, match=message):
        look(str(tmp_path / "set"))


def test_an_arrow_stream_without_its_end_is_not_whole(tmp_path: Path) -> None:
    save(tmp_path / "set", pa.concat_tables([TABLE] * 2))
    (path,) = (tmp_path / "set").glob("*.arrow")
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(DatasetError, match="not a whole Arrow file after row 6: the stream has no end mark"):
        list(formats.read(str(path), {}))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    assert [row for _, row in formats.read(str(path), {})] == NAMED


class Hub(MemoryFileSystem):  # type: ignore[misc]
    """The hub's protocol over files in memory."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("hf://", "/")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setitem(_registry, "hf", Hub)
    Hub.store.clear()
    yield Hub()
    Hub.store.clear()


PLAIN = "hf://datasets/org/plain"
ON_THE_HUB = {
    "one file": (["answers.jsonl", "README.md", ".gitattributes"], "", ["answers.jsonl"]),
    "shards": (
        ["data/test-00000-of-00001.parquet", "data/train-00000-of-00002-1f.parquet", "data/train-00001-of-00002-2e.parquet"],
        "", ["data/train-00000-of-00002-1f.parquet", "data/train-00001-of-00002-2e.parquet"],
    ),
    "named": (["data/test-00000-of-00001.csv", "data/train-00000-of-00001.csv"], "#test", ["data/test-00000-of-00001.csv"]),
    "own names": (["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"], "#train_gen",
                  ["data/train_gen-00000-of-00001.parquet"]),
    "folders": (["train/0001.jsonl", "train/0002.jsonl", "dev/0001.jsonl"], "", ["train/0001.jsonl", "train/0002.jsonl"]),
    "beside": (["2023_all.messages.jsonl.gz", "data/train-00000-of-00001.parquet"], "", ["data/train-00000-of-00001.parquet"]),
    "part": (["main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet"], "/main",
             ["main/train-00000-of-00001.parquet"]),
    "unnamed": (["rows.jsonl", "test.jsonl"], "", ["rows.jsonl"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_datasets_on_the_hub(hub: Hub, name: str) -> None:
    below, tail, expected = ON_THE_HUB[name]
    for file in below:
        hub.pipe_file(f"/datasets/org/plain/{file}", LINE)
    assert names(PLAIN + tail, PLAIN) == expected


def test_rows_of_the_hub_are_read(hub: Hub) -> None:
    hub.pipe_file("/datasets/org/plain/train.jsonl", LINE)
    with hub.open("/datasets/org/plain/other/test.parquet", "wb") as file:
        pq.write_table(TABLE, file)
    ((file, _),) = look(PLAIN).files
    assert list(formats.read(file, {})) == [(1, {"question": "q", "answer": "a"})]
    ((file, _),) = look(f"{PLAIN}#test").files
    assert [row for _, row in formats.read(file, {})] == NAMED
    assert look(PLAIN).notes == [f"{PLAIN}: the set 'train' is read, test left out; name others with e.g. #test at the end "
                                 f"of the address"]  # fmt: skip


UNCLEAR = {
    "several": (
        ["main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet"],
        r"several datasets: main, socratic. Name the one you mean, e.g. hf://datasets/org/plain/main",
    ),
    "formats": (["rows.jsonl", "rows.csv"], r"several formats: rows.csv, rows.jsonl"),
    "no set to train on": (["a-00000-of-00001.jsonl", "b-00000-of-00001.jsonl"], r"the sets a, b, and none"),
    "a script": (["load.py", "README.md"], r"no file with one of the suffixes .*; found README.md, load.py"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_is_unclear_on_the_hub_is_asked(hub: Hub, name: str) -> None:
    below, message = UNCLEAR[name]
    for file in below:
        hub.pipe_file(f"/datasets/org/plain/{file}", LINE)
    with pytest.raises(DatasetError, match=message):
        look(PLAIN)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/train-00000-of-00001-abc.parquet", "train"), ("x/validation.jsonl", "validation"), ("dev/1.csv", "validation"),
        ("my.test.json", "test"), ("latest.json", ""), ("contest/train.csv", "train"), ("train/test_1.csv", "test"),
        ("data/test_sft-00000-of-00001.parquet", "test_sft"), ("training.csv", "train"),
    ],
)  # fmt: skip
def test_sets_are_found_in_paths(path: str, name: str) -> None:
    assert folders.set_of(path) == name


def test_expand_is_the_files_of_a_survey(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    assert expand([Source(address=f"{tmp_path}/a.jsonl", weight=2)], {}, formats.SUFFIXES) == [(f"{tmp_path}/a.jsonl", 2.0)]
