"""The store: the same behaviour on a local folder and behind fsspec, data first and the manifest last."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tasks import storage
from tasks.contracts import digest_of
from tasks.errors import ServiceError, WorkspaceError
from tasks.storage import Store, folder_digest, link_tree, records_of, sha256_file, write_text

KEY = "cache/step/abc"
# printf hello | sha256sum
HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = str(tmp_path / "store") if request.param == "local" else f"memory://{uuid4().hex}/prefix"
    return Store(root, tmp_path / "scratch")


def publish(store: Store, key: str = KEY, more: dict[str, Any] | None = None, **files: str) -> None:
    with store.workbench(key) as folder:
        for name, text in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        store.publish(key, folder, more or {})


def damage(store: Store) -> str:
    manifest = store.manifest(KEY)
    assert manifest is not None
    return store.damage(KEY, manifest)


def test_what_was_published_is_there_whole(store: Store) -> None:
    assert store.manifest(KEY) is None
    publish(store, more={"value": 7}, a="hello", sub__b="x")
    manifest = store.manifest(KEY)
    assert manifest is not None
    assert manifest["value"] == 7
    assert manifest["files"][0] == {"path": "a", "sha256": HELLO, "bytes": 5}
    assert [entry["path"] for entry in manifest["files"]] == ["a", "sub/b"]
    assert store.damage(KEY, manifest) == ""
    assert (store.local(store.uri(KEY)) / "sub" / "b").read_text() == "x"
    assert store.local(store.uri(f"{KEY}/a")).read_text() == "hello"


def test_publishing_again_leaves_nothing_of_before(store: Store) -> None:
    publish(store, a="one", old="x")
    assert store.local(store.uri(KEY)).joinpath("a").read_text() == "one"
    publish(store, a="two")
    assert damage(store) == ""
    assert sorted(path.name for path in store.local(store.uri(KEY)).iterdir()) == ["a", "manifest.json"]
    assert store.local(store.uri(KEY)).joinpath("a").read_text() == "two"


@pytest.mark.parametrize(
    ("harm", "found"),
    [("remove", "a is missing"), ("change", "a is not what its manifest says"), ("cut", "a is not what its manifest says")],
)
def test_damage_is_told(store: Store, harm: str, found: str) -> None:
    publish(store, a="hello")
    address = f"{store._base}/{KEY}/a"
    if harm == "remove":
        store.filesystem.rm_file(address)
    else:
        store.filesystem.pipe_file(address, b"hellO" if harm == "change" else b"hell")
    assert damage(store) == found


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
def test_a_manifest_that_cannot_be_read_is_none(store: Store, text: bytes) -> None:
    publish(store, a="hello")
    store.filesystem.pipe_file(f"{store._base}/{KEY}/manifest.json", text)
    assert store.manifest(KEY) is None


def test_a_crash_between_files_and_manifest_leaves_no_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_text", crash)
        patch.setattr(type(store.filesystem), "pipe_file", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(store, a="hello")
    assert store.filesystem.exists(f"{store._base}/{KEY}/a")
    assert store.manifest(KEY) is None
    publish(store, b="again")  # what lies there is no obstacle
    assert damage(store) == ""
    assert not store.filesystem.exists(f"{store._base}/{KEY}/a")


def test_a_workbench_that_was_not_published_is_gone(store: Store) -> None:
    with pytest.raises(ValueError, match="stop"), store.workbench(KEY) as folder:
        (folder / "half").write_text("x")
        raise ValueError("stop")
    assert not folder.exists()
    assert store.manifest(KEY) is None


def test_a_workbench_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkspaceError, match=r"Cannot make the folder .*: Not a directory\. Choose another --workspace\."),
        Store(str(tmp_path), tmp_path / "file").workbench(KEY),
    ):
        pass


def test_an_address_of_elsewhere_is_left_alone(store: Store) -> None:
    assert store.local("/elsewhere/x") == Path("/elsewhere/x")


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    before = Store(str(tmp_path / "before"), tmp_path / "scratch")
    publish(before, more={"value": {"uri": before.uri(KEY) + "/a"}}, a="hello")
    shutil.move(tmp_path / "before", tmp_path / "after")
    after = Store(str(tmp_path / "after"), tmp_path / "scratch")
    manifest = after.manifest(KEY)
    assert manifest is not None
    assert manifest["value"]["uri"] == f"{tmp_path}/after/{KEY}/a"
    assert after.damage(KEY, manifest) == ""
    assert after.local(manifest["value"]["uri"]).read_text() == "hello"
    assert before.manifest(KEY) is None


def test_a_remote_store_can_be_moved(tmp_path: Path) -> None:
    filesystem, root = fsspec.filesystem("memory"), uuid4().hex
    before = Store(f"memory://{root}/before", tmp_path / "one")
    publish(before, more={"uri": before.uri(KEY)}, a="hello")
    filesystem.copy(f"/{root}/before", f"/{root}/after", recursive=True)
    after = Store(f"memory://{root}/after", tmp_path / "two")
    manifest = after.manifest(KEY)
    assert manifest is not None
    assert manifest["uri"] == f"memory://{root}/after/{KEY}"
    assert (after.local(manifest["uri"]) / "a").read_text() == "hello"


def test_probe_leaves_nothing(store: Store) -> None:
    publish(store, a="x")
    store.probe()
    assert [Path(name).name for name in store.filesystem.ls(store._base, detail=False)] == ["cache"]


def test_probe_of_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"The store .*file/store cannot be written, read and deleted from: .*file"):
        Store(str(tmp_path / "file" / "store"), tmp_path).probe()


def test_options_are_not_written_into(tmp_path: Path) -> None:
    options = {"auto_mkdir": True}
    Store(str(tmp_path), tmp_path, options)
    assert options == {"auto_mkdir": True}


def test_write_text_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old é")
    assert (path.read_text(encoding="utf-8"), stat.S_IMODE(path.stat().st_mode)) == ("old é", 0o644)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert [other.name for other in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text(encoding="utf-8") == "old é"


def test_link_tree_swaps_a_folder_in_whole(tmp_path: Path) -> None:
    one, two, target = tmp_path / "one", tmp_path / "two", tmp_path / "models" / "bot"
    for folder, names in ((one, ("a", "sub/b")), (two, ("c",))):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
    link_tree(one, target)
    assert (target / "sub" / "b").samefile(one / "sub" / "b")  # no byte was copied
    link_tree(two, target)
    assert [path.name for path in target.iterdir()] == ["c"]
    assert [path.name for path in target.parent.iterdir()] == ["bot"]
    assert (one / "a").read_text() == "a"


def test_link_tree_leaves_the_target_where_the_source_fails(tmp_path: Path) -> None:
    target = tmp_path / "bot"
    target.mkdir()
    (target / "kept").write_text("x")
    with pytest.raises(FileNotFoundError):
        link_tree(tmp_path / "nothing", target)
    assert [path.name for path in target.iterdir()] == ["kept"]


def test_digests_follow_paths_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    assert sha256_file(tmp_path / "a") == HELLO
    assert [record.model_dump() for record in records_of(tmp_path)] == [{"path": "a", "sha256": HELLO, "bytes": 5}]
    assert folder_digest(tmp_path) == digest_of([("a", HELLO)])
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    (tmp_path / "README.md").write_text("words")
    assert folder_digest(tmp_path, lambda path: path.name != "README.md") == digest_of([("a", HELLO)])
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_digest(tmp_path, lambda path: path.name != "README.md") == digest_of([("b", HELLO)])
