"""Sealed files: whole or refused, and read by the holder of the key alone."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.contracts import TokenizedDataset
from tasks.data import shards
from tasks.data.running import each, several
from tasks.encryption import arrays, vault
from tasks.encryption.container import CHUNK, Reader, Writer, is_sealed
from tasks.encryption.keys import KEY_FILE, MasterKey
from tasks.errors import DatasetError, StageError
from tasks.evaluation.items import Result, read_results, read_test, write_results
from tasks.process import child_environment
from tasks.release.parity import golden_prompts
from tasks.reporting.examples import dropped_examples, rows_to_show
from tasks.storage import Store
from tasks.training.data import collate
from tasks.training.reading import read_sequences
from tests.conftest import progression, write_sequences
from tests.tasks.test_models import byte_tokenizer

ROOT = Path(__file__).parents[2]
MASTER, OTHER = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))
HEAD, SEALED = 48, CHUNK + 16
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5)


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Path]:
    """A folder with a key, whose master key is held."""
    with vault.unlocked(MASTER):
        vault.begin(tmp_path / "set")
        yield tmp_path / "set"


def some_bytes(size: int) -> bytes:
    return Random(size).randbytes(size)


# --- the container


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [1000, CHUNK, 10 * CHUNK])
def test_what_was_written_is_read_however_it_was_cut(dataset: Path, size: int, piece: int) -> None:
    content = some_bytes(size)
    with vault.writing(dataset / "file") as file:
        for at in range(0, size, piece):
            file.write(content[at : at + piece])
    assert vault.read(dataset / "file") == content
    assert (dataset / "file").stat().st_size == HEAD + size + 16 * max(1, -(-size // CHUNK))
    reader = vault.source(dataset / "file")
    assert isinstance(reader, Reader)
    for first, count in ((0, 10), (size // 2, 10), (max(0, CHUNK - 3), 7), (0, size), (size, 5), (size + 9, 5)):
        reader.seek(first)
        assert reader.read(count) == content[first : first + count]
    reader.seek(-min(size, 4), io.SEEK_END)
    assert reader.read() == content[size - min(size, 4) :]


def test_the_same_content_gives_other_bytes_each_time(dataset: Path) -> None:
    for name in ("one", "two"):
        vault.write(dataset / name, b"x" * 3 * CHUNK)
    one, two = ((dataset / name).read_bytes() for name in ("one", "two"))
    chunks = [part[at : at + 16] for part in (one, two) for at in range(HEAD, len(part) - 16, 16)]
    assert len(set(chunks)) == len(chunks)  # no nonce was used twice under one key
    assert b"xxxx" not in one


def flipped(at: int) -> Callable[[bytearray], bytes]:
    def damage(content: bytearray) -> bytes:
        content[at] ^= 1
        return bytes(content)

    return damage


DAMAGES: dict[str, Callable[[bytearray], bytes]] = {
    "a bit of the salt": flipped(40),
    "a bit of the first chunk": flipped(HEAD),
    "a bit of a tag": flipped(HEAD + SEALED - 1),
    "a bit of the last chunk": flipped(-20),
    "the last chunk is gone": lambda content: bytes(content[: HEAD + 2 * SEALED]),
    "a part of the last chunk is gone": lambda content: bytes(content[:-1]),
    "less than a tag is left of the last chunk": lambda content: bytes(content[: HEAD + 2 * SEALED + 3]),
    "a chunk in the middle is gone": lambda content: bytes(content[: HEAD + SEALED] + content[HEAD + 2 * SEALED :]),
    "two chunks changed places": lambda content: bytes(
        content[:HEAD]
        + content[HEAD + SEALED : HEAD + 2 * SEALED]
        + content[HEAD : HEAD + SEALED]
        + content[HEAD + 2 * SEALED :]
    ),
    "a chunk is there twice": lambda content: bytes(content[: HEAD + SEALED] + content[HEAD:]),
    "something is appended": lambda content: bytes(content) + b"x",
    "the head alone is left": lambda content: bytes(content[:HEAD]),
    "a part of the head is left": lambda content: bytes(content[:20]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(dataset: Path, damage: str) -> None:
    path = dataset / "file"
    vault.write(path, some_bytes(2 * CHUNK + 100))
    path.write_bytes(DAMAGES[damage](bytearray(path.read_bytes())))
    with pytest.raises(DatasetError, match=r"file is encrypted, and damaged: .*Remove the folder of its dataset"):
        vault.read(path)


def test_a_part_that_is_whole_is_not_read_from_a_file_without_its_end(dataset: Path) -> None:
    vault.write(dataset / "file", some_bytes(3 * CHUNK))
    whole = (dataset / "file").read_bytes()
    (dataset / "file").write_bytes(whole[: HEAD + 2 * SEALED])
    with pytest.raises(DatasetError, match="chunk 2 of 2 is not what was written"):
        vault.source(dataset / "file")


def test_an_unfinished_file_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as raw:
        Writer(raw, bytes(32), bytes(8)).write(some_bytes(2 * CHUNK))
    with pytest.raises(DatasetError, match="damaged"):
        Reader(tmp_path / "file", bytes(32), bytes(8))


def test_a_failed_writing_leaves_nothing(dataset: Path) -> None:
    with pytest.raises(ZeroDivisionError), vault.writing(dataset / "file") as file:
        file.write(b"x" * CHUNK)
        raise ZeroDivisionError
    assert [path.name for path in dataset.iterdir()] == [KEY_FILE]


# --- keys


def test_a_file_of_another_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    vault.begin(tmp_path / "other")
    vault.write(tmp_path / "other" / "file", b"x")
    shutil.copy(tmp_path / "other" / "file", dataset / "file")
    with pytest.raises(DatasetError, match=r"file was encrypted with the data key \w{16}, but the key beside it is \w{16}"):
        vault.read(dataset / "file")


def test_another_master_key_opens_nothing(dataset: Path) -> None:
    vault.write(dataset / "file", b"x")
    with vault.unlocked(OTHER):
        for use in (vault.read, lambda path: vault.write(path, b"y"), lambda path: vault.begin(path.parent)):
            with pytest.raises(DatasetError, match=f"under the key {MASTER.name}, but .* holds the key {OTHER.name}"):
                use(dataset / "file")


def test_without_the_master_key_nothing_is_read_or_written(tmp_path: Path) -> None:
    with vault.unlocked(MASTER):
        vault.begin(tmp_path)
        vault.write(tmp_path / "file", b"x")
    for use in (vault.read, lambda path: vault.write(path, b"y")):
        with pytest.raises(DatasetError, match=r"no key is at hand\. Name the block that holds it in data\.encryption"):
            use(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == [KEY_FILE, "file"]


def test_without_the_dataset_s_own_key_nothing_is_read(dataset: Path) -> None:
    vault.write(dataset / "file", b"x")
    (dataset / KEY_FILE).unlink()
    with pytest.raises(DatasetError, match=f"no folder above it has the {KEY_FILE}"):
        vault.read(dataset / "file")
    vault.begin(dataset)  # a new key is no help
    with pytest.raises(DatasetError, match="from another dataset"):
        vault.read(dataset / "file")


@pytest.mark.parametrize("text", ["", "{}", '{"key": "00", "opened_by": "x", "sealed": 5}', None])
def test_a_damaged_key_file_is_named(dataset: Path, text: str | None) -> None:
    path = dataset / KEY_FILE
    vault.write(dataset / "file", b"x")
    name = "".join(path.read_text().split('"key": "')[1][:16])
    path.write_text(path.read_text().replace(name, "0" * 16) if text is None else text)
    with pytest.raises(DatasetError, match=rf"{KEY_FILE} is damaged.*Remove"):
        vault.read(dataset / "file")


def test_nothing_is_written_in_clear_where_a_key_is_held(tmp_path: Path) -> None:
    with vault.unlocked(MASTER), pytest.raises(StageError, match="would be written in clear"):
        vault.write(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_s_key_stays_when_it_is_begun_again(dataset: Path) -> None:
    before = (dataset / KEY_FILE).read_bytes()
    vault.begin(dataset)
    assert (dataset / KEY_FILE).read_bytes() == before
    assert MASTER.material not in before


def test_the_key_shows_itself_nowhere() -> None:
    with pytest.raises(ValueError, match="a master key has 32 bytes, not 3"):
        MasterKey(b"abc")
    assert repr(MASTER) == str(MASTER) == "MasterKey()"
    assert pickle.loads(pickle.dumps(MASTER)) == MASTER  # noqa: S301 - to other processes, through a pipe
    assert MASTER.name != OTHER.name
    assert MASTER.material.hex()[:8] not in MASTER.name


def test_without_a_key_files_are_plain(tmp_path: Path) -> None:
    vault.begin(tmp_path)
    vault.write(tmp_path / "file", b"hello")
    assert (tmp_path / "file").read_bytes() == b"hello"
    assert vault.source(tmp_path / "file") == tmp_path / "file"
    assert vault.variables() == {}


# --- other processes


class Job:
    """Seals its own name."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number

    @property
    def name(self) -> str:
        return f"job-{self.number}"

    @property
    def outputs(self) -> list[Path]:
        return [self.folder / self.name]


def seal_name(job: Any) -> dict[str, Any]:
    vault.write(job.outputs[0], job.name.encode())
    return {"name": job.name, "by": os.getpid()}


def test_several_processes_hold_the_key_and_seal_what_they_find(dataset: Path) -> None:
    jobs = [Job(dataset, number) for number in range(4)]
    with several(2) as run:
        facts = each(run, seal_name, jobs, dataset / "marks")
    assert all(fact["by"] != os.getpid() for fact in facts)
    assert [vault.read_text(job.outputs[0]) for job in jobs] == [job.name for job in jobs]
    assert all(is_sealed(path) for path in (dataset / "marks").iterdir())
    with several(1) as run:
        assert each(run, seal_name, jobs, dataset / "marks") == facts  # taken from the marks


CHILD = """
import os, sys
from pathlib import Path
from tasks.encryption import vault
assert vault.held().material.hex() not in str(dict(os.environ)) + " ".join(sys.argv)
print(vault.read_text(Path(sys.argv[1])))
"""


def child(path: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **child_environment("cpu", 1, "run"), "PYTHONPATH": str(ROOT)}
    assert MASTER.material.hex() not in str(environment)
    command = [sys.executable, "-c", CHILD, str(path)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_child_process_finds_the_key_while_its_parent_holds_it(dataset: Path) -> None:
    vault.write(dataset / "file", b"hello")
    done = child(dataset / "file")
    assert (done.returncode, done.stdout.strip()) == (0, "hello"), done.stderr


def test_a_child_whose_parent_is_gone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with vault.unlocked(MASTER):
        variables = vault.variables()
    (name,) = variables
    monkeypatch.setenv(name, variables[name])
    with pytest.raises(StageError, match="The key of the data cannot be read from /proc/"):
        vault.held()


# --- arrays and tables

SHAPES = st.sampled_from([(0,), (1,), (5,), (40_000,), (20_000, 3), (3, 30_000)])


@given(shape=SHAPES, seed=st.integers(0, 9), data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_sealed_array_is_read_as_the_plain_one(dataset: Path, shape: tuple[int, ...], seed: int, data: Any) -> None:
    random = np.random.default_rng(seed)
    array = random.integers(0, 1 << 60, shape)
    path = dataset / f"{uuid4().hex}.npy"
    arrays.save(path, array)
    found = arrays.opened(path)
    assert (len(found), found.shape, found.dtype) == (len(array), array.shape, array.dtype)
    assert np.array_equal(np.asarray(found), array)
    assert np.array_equal(arrays.load(path), array)
    first, last = sorted(data.draw(st.tuples(st.integers(0, len(array)), st.integers(0, len(array)))))
    assert np.array_equal(found[first:last], array[first:last])
    if len(array):
        rows = random.integers(0, len(array), 50)
        assert np.array_equal(found[rows], array[rows])
        assert np.array_equal(found[int(rows[0])], array[rows[0]])
        for outside in (len(array), -1):
            with pytest.raises(IndexError):
                found[outside]


def test_named_arrays_and_arrays_in_parts_are_sealed(dataset: Path) -> None:
    one, two = np.arange(50_000, dtype="<u8"), np.arange(7, dtype="<u2")
    arrays.save_many(dataset / "many", one=one, two=two)
    assert list(arrays.load_many(dataset / "many", "two")) == ["two"]
    assert np.array_equal(arrays.load_many(dataset / "many")["one"], one)
    arrays.save_parts(dataset / "parts", iter((one[:3], one[3:])), "<u8", len(one))
    assert np.array_equal(arrays.load(dataset / "parts"), one)
    assert all(is_sealed(path) for path in dataset.iterdir() if path.name != KEY_FILE)


def test_a_damaged_shard_says_so_through_parquet(dataset: Path) -> None:
    table = pa.table({"text": [some_bytes(60).hex() for _ in range(5_000)]})
    shards.write_shard(dataset / "part-0.parquet", table)
    assert shards.read_shard(dataset / "part-0.parquet") == table
    (dataset / "part-0.parquet").write_bytes(flipped(HEAD + 5)(bytearray((dataset / "part-0.parquet").read_bytes())))
    with pytest.raises(DatasetError, match=r"part-0\.parquet is encrypted, and damaged: chunk 1 of"):
        shards.read_shard(dataset / "part-0.parquet")


# --- the stages

MARKER = "Zanzibarquokka"


def rows() -> list[dict[str, str]]:
    """600 rows, each with the marker in question and answer; repeats, near-repeats, dirt and empty answers among them."""
    random = Random(0)
    words = [f"{MARKER}{number}" for number in range(300)]
    made: list[dict[str, str]] = []
    for number in range(600):
        question, answer = (" ".join(random.choices(words, k=k)) for k in (35, 32))
        made.append({"question": f"{question} {number}?", "answer": answer})
        if number % 9 == 8:
            made[-1] = dict(made[random.randrange(number)])
        elif number % 11 == 10:
            copied = made[random.randrange(number)]
            made[-1] = {"question": copied["question"] + " more\u200b ", "answer": copied["answer"]}
    made[77]["answer"] = ""
    return made


def prepare(source: str, folder: Path, base: Any, processes: int) -> TokenizedDataset:
    """The whole stage, as its steps do it: each in a folder of its own."""
    from tasks.data import checks, cleaning, loading, splitting, tokenizing
    from tasks.data.spec import DataSpec

    spec = DataSpec(source=source)
    names = ("raw", "checked", "clean", "split", "tokens")
    raw_in, checked, clean_in, split_in, tokens = (folder / name for name in names)
    for path in (raw_in, checked, clean_in, split_in, tokens):
        vault.begin(path)
    with several(processes) as run:
        raw = loading.load("set", spec, raw_in, "mem://raw", {}, run=run, shard_rows=150)
        checks.validate(raw, spec.validation, spec.cleaning, raw_in, checked, run)
        clean = cleaning.clean(raw, spec.cleaning, raw_in, clean_in, "mem://clean", run)
        splits = splitting.split(clean, spec.splitting, (1.0,), clean_in, split_in, "mem://split", 0, run)
        files = {name: split_in / name for name in ("train", "validation", "test")}
        return tokenizing.tokenize(
            splits, base, files, tokens, "mem://tokens", max_length=2048, truncation="cut", batch_size=4, seed=0, run=run
        )


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Prepared:
    """An encrypted preparation by two processes, with all that it wrote meanwhile, and a plain one of the same rows."""

    sealed: Path
    clear: Path
    value: TokenizedDataset
    expected: TokenizedDataset


@pytest.fixture(scope="module")
def prepared(tiny_base: Any, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    model = shutil.copytree(tiny_base.location, folder / "model")
    byte_tokenizer(eos_token="<end>").save_pretrained(model)
    base = tiny_base.model_copy(update={"location": str(model), "max_positions": 4096, "vocabulary": 400})
    source = folder / "data.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    expected = prepare(str(source), folder / "clear", base, 1)
    (folder / "sealed" / "temporary").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patched, vault.unlocked(MASTER):
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # what a killed run leaves lies there
        patched.setenv("TMPDIR", str(folder / "sealed" / "temporary"))
        patched.setattr(tempfile, "tempdir", None)
        value = prepare(str(source), folder / "sealed", base, 2)
    return Prepared(folder / "sealed", folder / "clear", value, expected)


@pytest.mark.slow
def test_an_encrypted_preparation_leaves_no_word_of_a_row(prepared: Prepared) -> None:
    assert prepared.value == prepared.expected  # versions, counts and hashes are of the content
    assert any(MARKER.encode() in path.read_bytes() for path in files_below(prepared.clear))
    files = files_below(prepared.sealed)
    assert len(files) > 60  # the files of every pass are still there
    for kind in ("rows/part-*", "quarantine/part-*", "work/near/*/sets/*", "work/names.npy", "golden.jsonl", "train/part-*"):
        assert list(prepared.sealed.glob(f"*/{kind}")), kind
    for path in files:
        content = path.read_bytes()
        assert MARKER.encode() not in content, path
        assert MARKER.lower().encode() not in content, path
        clear = path.name == KEY_FILE or path.parent.name == "tokenizer" or "temporary" in path.parts
        assert is_sealed(path) != clear, path


@pytest.mark.slow
def test_an_encrypted_preparation_is_the_plain_one_to_its_reader(prepared: Prepared) -> None:
    shards_of = [path.relative_to(prepared.clear) for path in files_below(prepared.clear) if path.suffix == ".parquet"]
    assert len(shards_of) > 15
    with vault.unlocked(MASTER):
        for name in shards_of:
            assert shards.read_shard(prepared.sealed / name) == shards.read_shard(prepared.clear / name), name
        golden = Path("tokens") / "golden.jsonl"
        assert golden_prompts(prepared.sealed / golden, 5) == golden_prompts(prepared.clear / golden, 5)


@pytest.mark.slow
def test_with_the_key_gone_nothing_of_a_preparation_is_read(prepared: Prepared) -> None:
    for path in (path for path in files_below(prepared.sealed) if is_sealed(path)):
        with pytest.raises(DatasetError, match="no key is at hand"):
            vault.read(path)
    shard = next((prepared.sealed / "tokens" / "train").glob("part-*"))
    uses: list[Callable[[], Any]] = [
        lambda: shards.read_shard(shard), lambda: read_sequences(shard.parent), lambda: read_test(shard.parent, 0, 0),
        lambda: golden_prompts(prepared.sealed / "tokens" / "golden.jsonl", 1), lambda: rows_to_show(shard, 0),
        lambda: dropped_examples([prepared.sealed / "clean" / "quarantine"]),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(DatasetError, match="no key is at hand"):
            use()


@pytest.fixture
def sequences(dataset: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same tokens in clear and sealed, a folder of two shards each."""
    random = Random(1)
    for number in range(2):
        name = f"part-{number:05}.parquet"
        (tmp_path / "clear").mkdir(exist_ok=True)
        write_sequences(tmp_path / "clear" / name, [progression(random) for _ in range(400)])
        shards.write_shard(dataset / "train" / name, pq.read_table(tmp_path / "clear" / name))
    return tmp_path / "clear", dataset / "train"


@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_training_reads_sealed_tokens_from_memory_or_from_sealed_scratch(
    sequences: tuple[Path, Path], tmp_path: Path, in_memory: int
) -> None:
    clear, sealed = sequences
    expected, scratch = read_sequences(clear), tmp_path / "checkpoints" / "sequences"
    for check in (True, False):  # as the first rank, and as another one
        found = read_sequences(sealed, scratch, in_memory=in_memory, check=check)
        assert found.lengths.tolist() == expected.lengths.tolist()
        assert found.learned(range(len(found))) == expected.learned(range(len(expected)))
        picked = np.array([5, 700, 5, 0, 799])
        for one, other in zip(collate(found, picked, 0), collate(expected, picked, 0), strict=True):
            assert one.equal(other)
    written = [path for path in files_below(scratch) if path.suffix != ".json"] if in_memory == 0 else []
    assert len(written) == (3 if in_memory == 0 else 0)
    assert all(is_sealed(path) for path in written)


def test_evaluation_reads_sealed_tokens_and_seals_its_items(sequences: tuple[Path, Path], dataset: Path) -> None:
    clear, sealed = sequences
    assert read_test(sealed, 30, 3) == read_test(clear, 30, 3)
    results = [Result("base", "held_out", 0, 0, "g", 1.5, 3, answer=MARKER, prompt=MARKER)]
    write_results(dataset / "items.parquet", results)
    assert is_sealed(dataset / "items.parquet")
    assert read_results(dataset / "items.parquet") == results


def test_a_part_of_a_remote_entry_comes_with_its_key(dataset: Path, tmp_path: Path) -> None:
    store = Store(f"memory://{uuid4().hex}/prefix", tmp_path / "scratch")
    vault.write(dataset / "train" / "part-0", b"hello")
    store.publish("cache/tokenize/abc", dataset, {})
    assert vault.read(store.local(store.uri("cache/tokenize/abc/train")) / "part-0") == b"hello"
    assert not is_sealed(store.local(store.uri("cache/tokenize/abc")) / KEY_FILE)
