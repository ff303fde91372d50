"""The plan: what goes, for which reason, and what holds it back."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.maintenance.spec import GIB, Kept, MaintenanceSpec
from tests.tasks.maintenance.conftest import Box, Holder, brief

A24, B24, E24, F24 = ("a" * 24, "b" * 24, "e" * 24, "f" * 24)


def test_nothing_is_old_in_an_empty_workspace(box: Box) -> None:
    box.root.mkdir()
    assert box.plan(runs_days=1, checkpoints_days=1, cache_days=1, cache_gib=1e-9, unfinished_hours=1).items == ()


def test_every_kind_goes_with_its_bytes_and_reason(either_box: Box) -> None:
    box = either_box
    box.run("old", days=40)
    box.run("young", days=10)
    box.file(f"checkpoints/{E24}/step-00000004/state", 500, days=31)
    box.file(f"checkpoints/{F24}/step-00000004/state", 500, days=29)
    box.entry("clean-a", 1000, days=91)
    box.entry("clean-b", 2000, days=89)
    box.entry("split-c", 70, days=2, whole=False)
    box.file("cache/.scratch/unfinished/cache-train-x-17/half", 30, days=3)
    box.file(f"cache/.scratch/copies/cache/clean/{B24}/rows", 44, days=2)
    plan = box.plan(runs_days=30, checkpoints_days=30, cache_days=90, unfinished_hours=24)
    assert brief(plan.items) == {
        "runs/old": ("run", 100, "not used for 40 days, limit 30"),
        f"checkpoints/{E24}": ("checkpoint", 500, "not used for 31 days, limit 30"),
        f"cache/clean/{A24}": ("cache", 1013, "not used for 91 days, limit 90"),
        f"cache/split/{'c' * 24}": ("partial", 70, "not used for 48 hours, limit 24"),
        "cache/.scratch/unfinished/cache-train-x-17": ("unfinished", 30, "not used for 72 hours, limit 24"),
        f"cache/.scratch/copies/cache/clean/{B24}": ("copy", 44, "not used for 48 hours, limit 24"),
    }
    assert {item.key: item.last_used for item in plan.items}[f"cache/clean/{A24}"] == box.ago(91)
    assert plan.kept == (
        Kept(kind="run", count=1, bytes=100),
        Kept(kind="checkpoint", count=1, bytes=500),
        Kept(kind="cache", count=1, bytes=2013),
    )
    assert plan.notes == ()


@pytest.mark.parametrize("limit", ["runs_days", "checkpoints_days", "cache_days", "unfinished_hours"])
def test_zero_keeps_all_and_each_limit_reads_its_own_kind(box: Box, limit: str) -> None:
    box.run("old", days=90)
    box.file(f"checkpoints/{E24}/state", 1, days=90)
    box.entry("clean-a", 1, days=90)
    box.entry("clean-b", 1, days=90, whole=False)
    kinds = {"runs_days": ["run"], "checkpoints_days": ["checkpoint"], "cache_days": ["cache"], "unfinished_hours": ["partial"]}
    assert box.plan().items == ()
    assert [item.kind for item in box.plan(**{limit: 1}).items] == kinds[limit]


def test_a_limit_is_reached_only_when_it_is_passed(box: Box) -> None:
    box.entry("clean-a", 1, days=90)
    assert box.going(cache_days=90) == []
    assert [item.key for item in box.plan(now=box.now + 1, cache_days=90).items] == [f"cache/clean/{A24}"]


def test_the_last_use_of_an_entry_is_the_newest_record_that_names_it(either_box: Box) -> None:
    box = either_box
    entry = box.entry("clean-a", 1, days=200)
    box.run("one", days=1, used={entry: 120})
    box.run("two", days=1, used={entry: 30})
    assert box.going(cache_days=29) == [entry]
    assert box.plan(cache_days=29).items[0].last_used == box.ago(30)
    assert box.going(cache_days=31) == []


def test_a_record_that_cannot_be_read_is_no_use_and_no_obstacle(box: Box) -> None:
    entry = box.entry("clean-a", 1, days=200)
    for name, text in {"clean": "{", "split": "[]", "train": '{"step": "train"}', "plan": '{"step": 1, "key": 2}'}.items():
        box.file(f"runs/bot/steps/{name}.json", 0, days=1, text=text)
    assert box.going(cache_days=90) == [entry]


def test_what_a_kept_run_s_result_names_stays_until_the_run_goes(either_box: Box) -> None:
    box = either_box
    model, rows = box.entry("train-a", 10, days=200), box.entry("clean-b", 10, days=200)
    box.run("bot", days=100, result={"model": {"uri": box.store.uri(f"{model}/model")}, "nested": [[f"/elsewhere/{rows}"]]})
    assert box.going(cache_days=90) == []
    assert box.going(cache_days=90, runs_days=101) == []
    assert box.going(cache_days=90, runs_days=99) == ["runs/bot", rows, model]


def test_what_two_runs_need_stays_while_one_of_them_stays(box: Box) -> None:
    entry = box.entry("train-a", 10, days=200)
    box.run("old", days=100, result=entry)
    box.run("new", days=10, result=entry)
    assert box.going(cache_days=90, runs_days=50) == ["runs/old"]


def test_what_a_run_left_for_later_stages_keeps_what_it_names(either_box: Box) -> None:
    box = either_box
    model, trial = box.entry("train-a", 10, days=200), box.entry("train-b", 10, days=200)
    box.value("bot", "model", f'{{"uri": "store://{model}/model"}}', days=100)
    box.value("bot", "trials/0", f'{{"uri": "store://{trial}/model"}}', days=100)
    assert box.going(cache_days=90) == []
    assert box.going(cache_days=90, runs_days=99) == ["runs/bot", model, trial]


def test_the_records_of_trials_count_too(box: Box) -> None:
    entry = box.entry("train-a", 10, days=200)
    used = box.run("bot", days=1, used={entry: 20}) / "steps"
    (box.root / "runs" / "bot" / "trials" / "trial-3").mkdir(parents=True)
    used.rename(box.root / "runs" / "bot" / "trials" / "trial-3" / "steps")
    assert box.going(cache_days=30) == []
    assert box.going(cache_days=10) == [entry]


def test_a_run_s_age_and_bytes_are_those_of_its_folder_and_its_values(either_box: Box) -> None:
    box = either_box
    box.run("bot", days=100)
    box.value("bot", "plan", "x" * 50, days=40)
    box.value("stored-only", "plan", "x" * 7, days=40)
    assert box.going(runs_days=41) == []
    assert brief(box.plan(runs_days=39).items) == {
        "runs/bot": ("run", 150, "not used for 40 days, limit 39"),
        "runs/stored-only": ("run", 7, "not used for 40 days, limit 39"),
    }


def test_what_a_flow_run_needs_that_is_not_over_stays(either_box: Box) -> None:
    """It waits for a person, or works on another machine: no lock here says so."""
    box = either_box
    named, used = box.entry("train-a", 10, days=200), box.entry("clean-b", 10, days=200)
    box.value("bot", "context", '{"flow_run_id": "1-2-3"}', days=100)
    box.value("bot", "model", f'{{"uri": "store://{named}/model"}}', days=100)
    box.run("bot", days=100, used={used: 150})
    box.run("bot", days=100, used={f"cache/train/{E24}": 100})
    box.file(f"checkpoints/{E24}/state", 1, days=100)
    box.file(f"cache/.scratch/copies/{named}/model/weights", 1, days=9)
    limits = {"runs_days": 30, "cache_days": 30, "checkpoints_days": 30, "unfinished_hours": 24}
    assert box.plan(open_flow_runs=["1-2-3"], **limits).items == ()
    goes = ["runs/bot", f"checkpoints/{E24}", used, named, f"cache/.scratch/copies/{named}"]
    assert [item.key for item in box.plan(open_flow_runs=["other"], **limits).items] == goes


def test_over_its_size_the_least_recently_used_go_first(either_box: Box) -> None:
    box = either_box
    size = 2**20
    oldest, needed, used, newest = (
        box.entry(f"clean-{letter}", size - 13, days) for letter, days in {"a": 50, "b": 60, "c": 70, "d": 10}.items()
    )
    box.run("bot", days=1, used={used: 20}, result=needed)
    assert box.going(cache_gib=4 * size / GIB) == []
    assert box.going(cache_gib=3 * size / GIB) == [oldest]
    assert box.going(cache_gib=(3 * size - 1) / GIB) == [oldest, used]
    plan = box.plan(cache_gib=0.5 * size / GIB)
    assert [item.key for item in plan.items] == [oldest, used, newest]
    assert plan.items[0].reason == "the cache holds 0.00 GiB, limit 0.000488281; least recently used first"
    assert plan.notes == (
        "The cache stays at 0.00 GiB, over its limit of 0.000488281: runs that are kept or under way need the rest. "
        "runs_days lets old runs go.",
    )


def test_age_comes_before_size(box: Box) -> None:
    size = 2**20
    for letter, days in {"a": 100, "b": 50, "c": 10}.items():
        box.entry(f"clean-{letter}", size - 13, days)
    items = box.plan(cache_days=90, cache_gib=2 * size / GIB).items
    assert [item.reason for item in items] == ["not used for 100 days, limit 90"]


def test_a_file_that_models_share_frees_nothing(box: Box) -> None:
    entry = box.entry("export-safetensors-a", 5000, days=200)
    (box.root / "models" / "bot").mkdir(parents=True)
    os.link(box.root / entry / "rows", box.root / "models" / "bot" / "model.safetensors")
    assert brief(box.plan(cache_days=90).items) == {entry: ("cache", 13, "not used for 200 days, limit 90")}


def test_a_held_run_is_kept_with_the_entries_that_it_uses(box: Box, held_elsewhere: Holder) -> None:
    entry, other = box.entry("clean-a", 1, days=200), box.entry("clean-b", 1, days=200)
    folder = box.run("bot", days=200, used={entry: 200})
    copy = box.file(f"cache/.scratch/copies/{entry}/rows", 1, days=9).parent.relative_to(box.root).as_posix()
    limits = {"runs_days": 1, "cache_days": 1, "unfinished_hours": 1}
    with held_elsewhere(folder / ".lock"):
        assert box.going(**limits) == [other]
    assert box.going(**limits) == ["runs/bot", entry, other, copy]


def test_a_run_without_a_lock_of_its_own_is_held_by_any_run(box: Box, held_elsewhere: Holder) -> None:
    entry = box.entry("load-a", 1, days=200)
    box.run("quickstart-base", days=200, used={entry: 200}, lock=False)
    other = box.run("bot", days=1)
    with held_elsewhere(other / ".lock"):
        assert box.going(runs_days=30, cache_days=30) == []
    assert box.going(runs_days=30, cache_days=30) == ["runs/quickstart-base", entry]


def test_a_held_entry_is_kept(either_box: Box, held_elsewhere: Holder) -> None:
    box = either_box
    box.entry("clean-a", 1, days=200)
    box.entry("clean-b", 1, days=200, whole=False)
    box.file(f"cache/.scratch/copies/cache/clean/{A24}/rows", 1, days=9)
    box.file(f"cache/.scratch/unfinished/cache-clean-{B24}-17/half", 1, days=9)
    limits = {"cache_days": 90, "unfinished_hours": 24}
    locks = box.root / "cache" / ".scratch" / "locks"
    with held_elsewhere(locks / f"cache-clean-{A24}.lock"), held_elsewhere(locks / f"cache-clean-{B24}.lock"):
        assert box.going(**limits) == []
        assert box.going(cache_gib=1e-9) == []
    assert len(box.going(**limits)) == 4


@pytest.mark.parametrize("step", ["train", "trial"])
def test_checkpoints_of_a_training_under_way_are_kept(box: Box, held_elsewhere: Holder, step: str) -> None:
    box.file(f"checkpoints/{A24}/step-00000004/state", 1, days=200)
    with held_elsewhere(box.root / "cache" / ".scratch" / "locks" / f"cache-{step}-{A24}.lock"):
        assert box.going(checkpoints_days=30) == []
    assert box.going(checkpoints_days=30) == [f"checkpoints/{A24}"]


def test_checkpoints_of_a_finished_training_go_like_remains(either_box: Box) -> None:
    either_box.file(f"checkpoints/{A24}/step-00000004/state", 1, days=2)
    either_box.entry("train-a", 1, days=2)
    assert either_box.going(checkpoints_days=30) == []
    assert either_box.going(checkpoints_days=30, unfinished_hours=24) == [f"checkpoints/{A24}"]


def test_swap_folders_go_but_the_last_one_of_a_model_stays(box: Box) -> None:
    box.file("models/bot/model.safetensors", 1, days=9)
    for name in (".bot.17.new", ".bot.17.old", ".lost.17.old", ".lost.17.new"):
        box.file(f"models/{name}/model.safetensors", 1, days=9)
    box.file("runs/.bot.17.old/result.json", 1, days=9)
    box.file(f"checkpoints/.{A24}.17.old/state", 1, days=9)
    box.file("cache/models/abc.partial/model.safetensors", 1, days=9)
    box.file("cache/models/abc/model.safetensors", 1, days=9)
    assert box.going(unfinished_hours=24) == [
        "runs/.bot.17.old", f"checkpoints/.{A24}.17.old", "cache/models/abc.partial", "models/.bot.17.new",
        "models/.bot.17.old",
    ]  # fmt: skip


def test_a_swap_folder_of_old_files_is_as_young_as_its_own_change(box: Box) -> None:
    box.file("models/bot/model.safetensors", 1, days=300)
    folder = box.file("models/.bot.17.new/model.safetensors", 1, days=300).parent
    changed = folder.lstat().st_ctime
    assert box.plan(now=changed + 23 * 3600, unfinished_hours=24).items == ()
    assert len(box.plan(now=changed + 25 * 3600, unfinished_hours=24).items) == 1


def test_what_is_no_product_of_ours_is_never_listed(box: Box) -> None:
    for path in (
        "models/bot/model.safetensors", "mlflow.db", "mlflow/1/a", "prefect/prefect.db", "notes/a", "runs/README.md",
        "runs/my notes/steps/a", "runs/empty-handed/a", "checkpoints/mine/a", f"cache/models/{A24}/model.safetensors",
        f"cache/hub/{A24}/a", "cache/matplotlib/a", "cache/triton/abc/a", "cache/clean/notes/a", "cache/.scratch/locks/a.lock",
    ):  # fmt: skip
        box.file(path, 10, days=5000)
    assert box.going(runs_days=1, checkpoints_days=1, cache_days=1, cache_gib=1e-9, unfinished_hours=1) == []


def test_links_are_not_followed(box: Box, tmp_path: Path) -> None:
    outside = Box(tmp_path / "outside")
    outside.run("old", days=500)
    outside.entry("clean-a", 10, days=500)
    outside.file(f"checkpoints/{A24}/state", 10, days=500)
    outside.file("cache/.scratch/unfinished/cache-clean-x-1/half", 10, days=500)
    (box.root / "cache" / ".scratch").mkdir(parents=True)
    (box.root / "runs").mkdir()
    (box.root / "runs" / "old").symlink_to(outside.root / "runs" / "old")
    (box.root / "checkpoints").symlink_to(outside.root / "checkpoints")
    (box.root / "cache" / "clean").symlink_to(outside.root / "cache" / "clean")
    (box.root / "cache" / ".scratch" / "unfinished").symlink_to(outside.root / "cache" / ".scratch" / "unfinished")
    assert box.going(runs_days=1, checkpoints_days=1, cache_days=1, cache_gib=1e-9, unfinished_hours=1) == []


def test_a_linked_file_counts_by_its_own_size(box: Box, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 10_000)
    folder = box.run("old", days=40)
    (folder / "link").symlink_to(tmp_path / "large")
    os.utime(folder / "link", (box.ago(40), box.ago(40)), follow_symlinks=False)
    assert box.plan(runs_days=30).items[0].bytes == 100 + len(str(tmp_path / "large"))


def test_planning_changes_nothing(either_box: Box) -> None:
    box = either_box
    box.run("old", days=40, used={box.entry("clean-a", 10, days=200): 200})
    before = {path: path.lstat().st_mtime_ns for path in box.root.rglob("*")}
    assert len(box.plan(runs_days=1, cache_days=1, checkpoints_days=1, unfinished_hours=1).items) == 2
    assert {path: path.lstat().st_mtime_ns for path in box.root.rglob("*")} == before


def test_the_form_has_titles_and_ranges_and_nothing_that_renders_badly() -> None:
    schema = MaintenanceSpec.model_json_schema()
    for name, field in schema["properties"].items():
        assert field["title"], name
        assert field["description"], name
        assert field["type"] in ("boolean", "integer", "number", "string"), name
    assert MaintenanceSpec().dry_run is True
    assert (MaintenanceSpec().runs_days, MaintenanceSpec().checkpoints_days, MaintenanceSpec().cache_days) == (0, 30, 90)
    assert (MaintenanceSpec().unfinished_hours, MaintenanceSpec().cache_gib, MaintenanceSpec().store) == (24, 0.0, "")
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        MaintenanceSpec(cache_days=-1)
    with pytest.raises(ValidationError, match="Extra inputs"):
        MaintenanceSpec.model_validate({"cache_day": 1})
