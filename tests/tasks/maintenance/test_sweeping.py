"""The removal: exactly what was planned, under lock, and nothing that was used since."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tasks.caching import Outcome, run_cached
from tasks.contracts import Count
from tasks.maintenance import sweeping
from tasks.maintenance.spec import DAY, Item
from tasks.maintenance.sweeping import sweep
from tasks.storage import MANIFEST, Store
from tests.tasks.maintenance.conftest import Box, Holder

LIMITS: dict[str, Any] = {"runs_days": 30, "checkpoints_days": 30, "cache_days": 30, "unfinished_hours": 24}
A24, E24 = "a" * 24, "e" * 24


def fill(box: Box) -> tuple[set[str], set[str]]:
    """Old and young folders of every kind; (files that must go, files that must stay)."""
    sets: list[set[str]] = []
    for age, name, letters in ((40, "old", "abe"), (0.5, "young", "cdf")):
        before = box.there()
        whole, half, training = letters
        box.run(name, days=age, result="nothing")
        box.file(f"checkpoints/{training * 24}/step-00000004/state", 500, days=age)
        box.entry(f"clean-{whole}", 1000, days=age)
        box.entry(f"split-{half}", 70, days=age, whole=False)
        box.file(f"cache/.scratch/unfinished/cache-split-{half * 24}-17/half", 30, days=age)
        box.file(f"cache/.scratch/copies/cache/clean/{whole * 24}/rows", 44, days=age)
        sets.append(box.there() - before)
    box.file("models/bot/model.safetensors", 5, days=900)
    box.file("mlflow.db", 5, days=900)
    return sets[0], box.there() - sets[0]


def reasons(items: tuple[Item, ...]) -> dict[str, str]:
    return {item.key: "removed" if item.removed else item.reason for item in items}


def test_exactly_the_listed_is_removed(either_box: Box) -> None:
    box = either_box
    goes, stays = fill(box)
    planned = box.plan(**LIMITS)
    swept = sweep(box.root, box.store, planned.items)
    assert box.there() == stays
    assert goes
    assert [item.key for item in swept] == [item.key for item in planned.items]
    assert {item.kind for item in swept} == {"run", "checkpoint", "cache", "partial", "unfinished", "copy"}
    assert all(item.removed for item in swept)
    assert sum(item.bytes for item in swept) == 109 + 500 + 1013 + 70 + 30 + 44
    assert not (box.root / "runs" / "old").exists()
    assert box.plan(**LIMITS).items == ()


def test_sweeping_again_is_sweeping_once(either_box: Box) -> None:
    box = either_box
    fill(box)
    planned = box.plan(**LIMITS).items
    first = sweep(box.root, box.store, planned)
    there = box.there()
    assert sweep(box.root, box.store, planned) == first
    assert box.there() == there


def test_what_is_held_since_the_plan_stays(either_box: Box, held_elsewhere: Holder) -> None:
    box = either_box
    fill(box)
    planned, before = box.plan(**LIMITS).items, box.there()
    locks = [f"cache-clean-{A24}", f"cache-split-{'b' * 24}", f"cache-train-{E24}"]
    held = [box.root / "cache" / ".scratch" / "locks" / f"{name}.lock" for name in locks]
    with ExitStack() as stack:
        for lock in (box.root / "runs" / "old" / ".lock", *held):
            stack.enter_context(held_elsewhere(lock))
        assert set(reasons(sweep(box.root, box.store, planned)).values()) == {"a run works on it"}
        assert box.there() == before
    assert all(item.removed for item in sweep(box.root, box.store, planned))


def test_a_run_that_was_used_since_the_plan_stays(box: Box) -> None:
    box.run("old", days=40)
    planned = box.plan(**LIMITS).items
    box.file("runs/old/report.html", 1, days=1)
    assert reasons(sweep(box.root, box.store, planned)) == {"runs/old": "it was used meanwhile"}


def test_an_entry_that_was_used_since_the_plan_stays(either_box: Box) -> None:
    box = either_box
    hit, again, whole = box.entry("clean-a", 1, 40), box.entry("split-b", 1, 40), box.entry("plan-c", 1, 40, whole=False)
    planned = box.plan(**LIMITS).items
    box.run("bot", days=0, used={hit: 0})
    box.entry("split-b", 1, days=0)
    box.entry("plan-c", 1, days=40)
    swept = sweep(box.root, box.store, planned)
    assert reasons(swept) == dict.fromkeys((hit, again, whole), "it was used meanwhile")


def test_an_entry_that_a_run_under_way_uses_stays(either_box: Box, held_elsewhere: Holder) -> None:
    box = either_box
    entry = box.entry("clean-a", 1, days=40)
    box.file(f"cache/.scratch/copies/{entry}/rows", 44, days=2)
    planned = box.plan(**LIMITS).items
    folder = box.run("bot", days=0, used={entry: 40})
    with held_elsewhere(folder / ".lock"):
        assert list(reasons(sweep(box.root, box.store, planned)).values()) == ["a run works on it"] * 2


def test_where_a_run_stays_after_all_its_entries_stay_too(box: Box, held_elsewhere: Holder) -> None:
    entry = box.entry("train-a", 1, days=40)
    folder = box.run("old", days=40, result=entry)
    planned = box.plan(**LIMITS).items
    with held_elsewhere(folder / ".lock"):
        assert reasons(sweep(box.root, box.store, planned)) == dict.fromkeys(("runs/old", entry), "a run works on it")
    box.file("runs/old/report.html", 1, days=1)
    assert reasons(sweep(box.root, box.store, planned)) == {
        "runs/old": "it was used meanwhile", entry: "the run old needs it",
    }  # fmt: skip


def test_a_run_goes_with_its_values_in_the_store(tmp_path: Path) -> None:
    remote, shared = Box(tmp_path / "one", remote=True), Box(tmp_path / "two")
    shared.store = Store(str(tmp_path / "shared"), shared.root / "cache" / ".scratch")
    shared.value("bot", "plan", "x", days=40)
    shutil.move(shared.root / "runs", tmp_path / "shared" / "runs")
    remote.value("bot", "plan", "x", days=40)
    for box in (remote, shared):
        box.run("bot", days=50)
        box.run("young", days=1)
        planned = box.plan(**LIMITS).items
        assert [(item.key, item.bytes) for item in planned] == [("runs/bot", 101)]
        assert reasons(sweep(box.root, box.store, planned, ["other"])) == {"runs/bot": "removed"}
        assert box.there() == {"runs/young/logs/train.log"}
        assert box.store.read("runs/bot/values/plan.json") is None
        assert sweep(box.root, box.store, planned)[0].removed


def test_a_run_of_an_open_flow_run_stays(either_box: Box) -> None:
    box = either_box
    box.value("bot", "context", '{"flow_run_id": "1-2-3"}', days=40)
    box.run("bot", days=40, used={f"cache/train/{E24}": 40})
    box.file(f"checkpoints/{E24}/state", 1, days=40)
    planned, before = box.plan(**LIMITS).items, box.there()
    assert reasons(sweep(box.root, box.store, planned, ["1-2-3"])) == dict.fromkeys(
        ("runs/bot", f"checkpoints/{E24}"), "a run works on it"
    )
    assert box.there() == before


def test_values_that_were_written_since_the_plan_keep_the_run(tmp_path: Path) -> None:
    box = Box(tmp_path / "workspace", remote=True)
    box.run("bot", days=40)
    planned = box.plan(**LIMITS).items
    box.value("bot", "plan", "x", days=1)
    assert reasons(sweep(box.root, box.store, planned)) == {"runs/bot": "it was used meanwhile"}


def test_a_run_without_a_lock_goes_only_while_no_run_is_under_way(box: Box, held_elsewhere: Holder) -> None:
    box.run("quickstart-base", days=40, lock=False)
    other = box.run("bot", days=1)
    planned = box.plan(**LIMITS).items
    with held_elsewhere(other / ".lock"):
        assert reasons(sweep(box.root, box.store, planned)) == {"runs/quickstart-base": "a run works on it"}
    assert reasons(sweep(box.root, box.store, planned)) == {"runs/quickstart-base": "removed"}


def test_the_manifest_goes_first(either_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that breaks off leaves an entry without a manifest, which the next plan lists as such."""
    box = either_box
    entry = box.entry("clean-a", 1000, days=40)
    planned = box.plan(**LIMITS).items

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(sweeping.shutil, "rmtree", fail)
        patch.setattr(box.store.filesystem, "rm", fail)
        swept = sweep(box.root, box.store, planned)
    assert reasons(swept) == {entry: "it could not be removed: Input/output error"}
    assert box.there() == {f"{entry}/rows"}
    assert box.store.manifest(entry) is None
    again = box.plan(**LIMITS).items
    assert [(item.kind, item.bytes) for item in again] == [("partial", 1000)]
    assert sweep(box.root, box.store, again)[0].removed
    assert box.there() == set()


def test_a_failure_does_not_end_the_sweep(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.run("one", days=40)
    box.run("two", days=40)
    planned, rmtree = box.plan(**LIMITS).items, shutil.rmtree

    def fail_once(path: Path) -> None:
        if path.name.startswith(".one."):
            raise PermissionError(13, "Permission denied")
        rmtree(path)

    monkeypatch.setattr(sweeping.shutil, "rmtree", fail_once)
    assert reasons(sweep(box.root, box.store, planned)) == {
        "runs/one": "it could not be removed: Permission denied", "runs/two": "removed",
    }  # fmt: skip
    monkeypatch.undo()
    left = box.plan(**LIMITS).items
    assert [(item.key, item.kind) for item in left] == [(f"runs/.one.{os.getpid()}.old", "unfinished")]
    sweep(box.root, box.store, left)
    assert list((box.root / "runs").iterdir()) == []


def cached(box: Box) -> Outcome[Count]:
    def compute(folder: Path, uri: str, key: str) -> Count:
        (folder / "rows.txt").write_text("rows")
        (folder / "more.txt").write_text("more")
        return Count(reason="r", rows=1)

    return run_cached(box.store, "clean", 1, {"x": 1}, Count, compute, box.root / "runs" / "bot" / "steps")


@pytest.mark.parametrize("lost", ["manifest alone", "manifest and a file", "everything"])
def test_a_removed_or_half_removed_entry_is_computed_again(either_box: Box, lost: str) -> None:
    box = either_box
    first = cached(box)
    entry = f"cache/clean/{first.record.key[:24]}"
    if lost == "everything":
        box.root.joinpath("runs/bot/logs").mkdir(parents=True)
        planned = box.plan(now=first.record.at + 31 * DAY, cache_days=30).items
        assert reasons(sweep(box.root, box.store, planned)) == {entry: "removed"}
    else:
        box.store.filesystem.rm_file(f"{box.store.uri(entry)}/{MANIFEST}")
        if lost == "manifest and a file":
            box.store.filesystem.rm_file(f"{box.store.uri(entry)}/rows.txt")
    again = cached(box)
    assert (again.record.cached, again.record.reason) == (False, "its cached result is gone")
    assert again.value == first.value
    manifest = box.store.manifest(entry)
    assert manifest is not None
    assert box.store.damage(entry, manifest) == ""
    assert cached(box).record.cached


def test_a_hit_makes_an_entry_young_again(either_box: Box) -> None:
    box = either_box
    first = cached(box)
    entry = f"cache/clean/{first.record.key[:24]}"
    box.root.joinpath("runs/bot/.lock").touch()
    hit = cached(box)
    assert hit.record.cached
    assert hit.record.at > first.record.at
    item = box.plan(now=hit.record.at + 31 * DAY, cache_days=30).items[0]
    assert (item.key, item.last_used) == (entry, hit.record.at)
    assert box.plan(now=hit.record.at + 30 * DAY, cache_days=30).items == ()


def test_a_run_can_start_while_and_after_its_folder_goes(box: Box) -> None:
    from tasks.contracts import RunContext
    from tasks.errors import RequestError
    from tasks.reporting.steps import _only_one

    run = RunContext(name="old", workspace=str(box.root))
    box.run("old", days=40)
    planned, rmtree = box.plan(**LIMITS).items, shutil.rmtree
    started = []

    def start_meanwhile(path: Path) -> None:
        with _only_one(run):  # the folder is out of the way already
            started.append((box.root / "runs" / "old" / ".lock").exists())
        rmtree(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping.shutil, "rmtree", start_meanwhile)
        assert sweep(box.root, box.store, planned)[0].removed
    assert started == [True]
    assert [path.name for path in (box.root / "runs" / "old").iterdir()] == [".lock"]
    with _only_one(run), pytest.raises(RequestError, match="is under way"), _only_one(run):
        pass


@pytest.mark.parametrize("kind", ["run", "checkpoint", "cache", "copy", "unfinished"])
@pytest.mark.parametrize("where", ["folder", "parent"])
def test_a_link_that_appears_after_the_plan_leads_nowhere(box: Box, tmp_path: Path, kind: str, where: str) -> None:
    fill(box)
    item = next(item for item in box.plan(**LIMITS).items if item.kind == kind)
    folder = box.root / item.key if where == "folder" else (box.root / item.key).parent
    outside = tmp_path / "outside"
    shutil.move(folder, outside)
    before = {path for path in outside.rglob("*") if path.name != ".lock"}
    folder.symlink_to(outside)
    stayed = "it is no folder of its own: it is reached through a link"
    assert reasons(sweep(box.root, box.store, (item,))) == {item.key: stayed}
    assert {path for path in outside.rglob("*") if path.name != ".lock"} == before


def test_a_link_inside_goes_without_what_it_points_at(box: Box, tmp_path: Path) -> None:
    treasure = tmp_path / "outside" / "treasure"
    treasure.parent.mkdir()
    treasure.write_text("gold")
    folder = box.run("old", days=40)
    (folder / "file").symlink_to(treasure)
    (folder / "folder").symlink_to(treasure.parent)
    entry = box.root / box.entry("clean-a", 1, days=40)
    (entry / "file").symlink_to(treasure)
    (entry / "folder").symlink_to(treasure.parent)
    for path in (*folder.iterdir(), *entry.iterdir()):
        os.utime(path, (box.ago(40), box.ago(40)), follow_symlinks=False)
    swept = sweep(box.root, box.store, box.plan(**LIMITS).items)
    assert [item.removed for item in swept] == [True, True]
    assert not folder.exists()
    assert not entry.exists()
    assert treasure.read_text() == "gold"


def test_another_entry_of_a_remote_store_is_not_touched(tmp_path: Path) -> None:
    """Keys that begin alike: a listing by prefix must not reach the neighbour."""
    box = Box(tmp_path / "workspace", remote=True)
    old = box.entry("clean-a", 1, days=40)
    box.store.filesystem.pipe_file(f"{box.store.uri(old)}0/rows", b"x")
    box.store.filesystem.pipe_file(f"{box.store.uri('cache/cleaner')}/{A24}0/rows", b"x")
    sweep(box.root, box.store, box.plan(**LIMITS).items)
    assert box.there() == {f"{old}0/rows", f"cache/cleaner/{A24}0/rows"}
