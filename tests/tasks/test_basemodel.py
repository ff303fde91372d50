"""From an address to a base model. Registered models are in test_tracking.py, where there is a registry."""

import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tasks.basemodel import find_model, inspect_model
from tasks.contracts import ModelRef
from tasks.errors import ModelError
from tasks.models import describe
from tests.tasks.test_models import byte_tokenizer, set_config


@pytest.fixture
def folder(tiny_base: ModelRef, tmp_path: Path) -> Path:
    """A whole base model: the tiny one with a tokenizer."""
    copy = Path(shutil.copytree(tiny_base.location, tmp_path / "model"))
    byte_tokenizer(eos_token="<end>").save_pretrained(copy)
    return copy


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def no_tracker() -> Any:
    raise AssertionError("only models:/ addresses need a tracking server")


def find(uri: str, workspace: Path) -> ModelRef:
    return find_model(uri, "", workspace, no_tracker, None, False)  # type: ignore[arg-type]


def inspect(uri: str, workspace: Path) -> ModelRef | None:
    return inspect_model(uri, "", workspace, no_tracker, None, False)


def test_a_folder_is_used_where_it_lies(folder: Path, workspace: Path) -> None:
    assert find(str(folder), workspace) == inspect(str(folder), workspace) == describe(str(folder), folder)
    assert not workspace.exists()


def test_a_folder_of_the_workspace_is_found(folder: Path, workspace: Path) -> None:
    shutil.copytree(folder, workspace / "models" / "mine")
    assert find("models/mine", workspace).location == str(workspace / "models" / "mine")


def test_a_look_tries_the_tokenizer_too(folder: Path, workspace: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="No tokenizer can be loaded"):
        inspect(str(folder), workspace)


@pytest.mark.parametrize("look", [find, inspect])
def test_a_model_that_is_nowhere(look: Any, workspace: Path) -> None:
    with pytest.raises(ModelError, match="The model 'org/nothing' was not found"):
        look("org/nothing", workspace)


@pytest.fixture(params=["memory", "file"])
def remote(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> str:
    """The address of the same model behind fsspec."""
    address = f"memory://{uuid4().hex}/base" if request.param == "memory" else f"file://{tmp_path}/far/base"
    filesystem, path = fsspec.core.url_to_fs(address)
    for file in folder.iterdir():
        filesystem.makedirs(path, exist_ok=True)
        filesystem.put_file(str(file), f"{path}/{file.name}")
    return address


def test_a_remote_folder_is_fetched_once(remote: str, folder: Path, workspace: Path) -> None:
    first, second = find(remote, workspace), inspect(remote, workspace)
    assert first == second
    assert Path(first.location).parent == workspace / "cache" / "models"
    assert first.sha256 == describe("", folder).sha256
    assert len(list((workspace / "cache" / "models").iterdir())) == 1


def test_a_remote_folder_that_changed_is_fetched_again(remote: str, folder: Path, workspace: Path) -> None:
    before = find(remote, workspace)
    set_config(folder, rope_theta=10001.0)
    size = (folder / "config.json").stat().st_size
    for theta in (20001.0, 30001.0):  # as many bytes each time
        set_config(folder, rope_theta=theta)
        assert (folder / "config.json").stat().st_size == size
        filesystem, path = fsspec.core.url_to_fs(remote)
        filesystem.put_file(str(folder / "config.json"), f"{path}/config.json")
        after = find(remote, workspace)
        assert after.sha256 == describe("", folder).sha256 != before.sha256
        before = after


def test_a_fetch_that_was_cut_short_is_begun_again(remote: str, workspace: Path) -> None:
    fetched = Path(find(remote, workspace).location)
    partial = fetched.with_name(fetched.name + ".partial")
    fetched.rename(partial)
    (partial / "model.safetensors").write_bytes(b"half")
    again = Path(find(remote, workspace).location)
    assert again == fetched
    assert not partial.exists()
    assert (again / "config.json").is_file()


@pytest.mark.parametrize("address", ["memory://nowhere/base", "file:///nowhere/base", "nonesuch://bucket/base"])
def test_a_remote_folder_that_is_not_there(address: str, workspace: Path) -> None:
    with pytest.raises(ModelError, match=f"The model folder {address} cannot be fetched: "):
        find(address, workspace)


def test_a_hub_model_comes_from_the_hub_client_s_folder_with_its_commit(
    folder: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout that the hub's client leaves behind; the same call fetches what is not there."""
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = tmp_path / "hub" / "models--org--tiny"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    shutil.copytree(folder, kept / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert inspect("org/tiny", workspace) is None  # it is there, and its tokenizer and configuration can be used
    found = find("org/tiny", workspace)
    assert (found.revision, found.parameters) == (commit, describe("x", folder).parameters)
    (kept / "snapshots" / commit / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="No tokenizer can be loaded"):
        inspect("org/tiny", workspace)
