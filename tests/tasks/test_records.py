"""A run's record: what a stage gave is found again by a later stage, on any store."""

from pathlib import Path

import pytest

from tasks.contracts import Count, RunContext, SplitPart
from tasks.errors import RequestError
from tasks.records import forget, intact, keep, known, recall
from tasks.storage import Store

SHA = "a" * 64


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    root = str(tmp_path / "root") if request.param == "local" else f"memory://{tmp_path.name}"
    return Store(root, tmp_path / "scratch")


def test_what_is_kept_is_recalled(store: Store) -> None:
    assert not known(store, "bot", "context")
    keep(store, "bot", "context", RunContext(name="bot", workspace="/w", tracking="team"))
    assert known(store, "bot", "context")
    assert recall(store, "bot", "context", RunContext).tracking == "team"


def test_addresses_follow_a_store_that_moves(tmp_path: Path) -> None:
    first = Store(str(tmp_path / "first"), tmp_path / "scratch")
    keep(first, "bot", "part", SplitPart(uri=first.uri("cache/split/x/train.parquet"), sha256=SHA, rows=3))
    (tmp_path / "first").rename(tmp_path / "second")
    second = Store(str(tmp_path / "second"), tmp_path / "scratch")
    assert recall(second, "bot", "part", SplitPart).uri == str(tmp_path / "second/cache/split/x/train.parquet")


def test_what_is_missing_is_named_with_what_is_there_and_who_gives_it(store: Store) -> None:
    keep(store, "bot", "context", RunContext(name="bot", workspace="/w"))
    with pytest.raises(
        RequestError, match=r"'bot' has no model in the store .*It has: context\. Start finetune or train-model"
    ):
        recall(store, "bot", "model", SplitPart)
    with pytest.raises(RequestError, match=r"'other' has no data .*Nothing is known of it there"):
        recall(store, "other", "data", SplitPart)


def test_a_run_that_begins_anew_forgets_its_stages_but_not_how_it_works(store: Store) -> None:
    for kind in ("context", "data", "model", "approval"):
        keep(store, "bot", kind, RunContext(name="bot", workspace="/w"))
    forget(store, "bot")
    assert [kind for kind in ("context", "data", "model", "approval") if known(store, "bot", kind)] == ["context"]
    forget(store, "other")  # which never was


def test_a_value_of_another_form_is_refused(store: Store) -> None:
    keep(store, "bot", "data", Count(reason="x", rows=1))
    with pytest.raises(RequestError, match=r"has another form .*start the run again"):
        recall(store, "bot", "data", SplitPart)


def test_a_value_is_intact_as_long_as_each_cached_file_it_names_is(store: Store, tmp_path: Path) -> None:
    with store.workbench("cache/split/k") as folder:
        (folder / "train.parquet").write_bytes(b"rows")
        store.publish("cache/split/k", folder, {"value": {}})
    value = SplitPart(uri=store.uri("cache/split/k/train.parquet"), sha256=SHA, rows=1)
    assert intact(store, value)
    assert intact(store, value.model_copy(update={"uri": "/elsewhere/x"}))
    store.filesystem.pipe_file(f"{store._base}/cache/split/k/train.parquet", b"other")
    assert not intact(store, value)
    assert not intact(store, value.model_copy(update={"uri": store.uri("cache/split/gone/x")}))
