"""The page of a clean-up, and the whole stage without Prefect."""

import logging

import pytest

from tasks.maintenance.page import headline, markdown
from tasks.maintenance.spec import GIB, Item, Kept, MaintenanceReport, MaintenanceSpec
from tasks.maintenance.steps import maintain_folder
from tests.tasks.maintenance.conftest import Box


def report(count: int, dry_run: bool = False, removed: bool = True, size: int = GIB // 2) -> MaintenanceReport:
    items = tuple(
        Item(key=f"runs/{n:03}", kind="run", bytes=size, last_used=86_400.0, reason="a|b", removed=removed and not dry_run)
        for n in range(count)
    )
    return MaintenanceReport(
        workspace="/w", store="s3://b", dry_run=dry_run, items=items, kept=(Kept(kind="cache", count=3, bytes=2**20),),
        notes=("Note.",), bytes_freed=sum(item.bytes for item in items if item.removed or dry_run),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (report(3, dry_run=True), "Dry run: 3 folders would go, which would free 1.50 GiB."),
        (report(1), "1 folder went, which freed 0.50 GiB."),
        (report(2, removed=False), "0 folders went, which freed 0.00 GiB. 2 folders stayed: see why in the table."),
        (report(0), "Nothing was old enough to go."),
        (report(0, dry_run=True), "Nothing is old enough to go."),
    ],
)
def test_the_headline_says_what_went(given: MaintenanceReport, expected: str) -> None:
    assert headline(given) == expected


def test_the_page_has_a_row_an_item_and_says_what_stays() -> None:
    assert markdown(report(1, dry_run=True, size=3 * 2**19)) == (
        "# Dry run: 1 folder would go, which would free 0.00 GiB.\n\n"
        "Workspace `/w`, store `s3://b`.\n\n"
        "Note.\n\n"
        "Nothing was removed. Run it again with `dry_run: false` to remove what the table lists.\n\n"
        "| folder | what | size | last used (UTC) | why | removed |\n"
        "|---|---|---:|---|---|---|\n"
        "| `runs/000` | run | 1.50 MiB | 1970-01-02 00:00 | a\\|b | no |\n\n"
        "Kept: 3 cached results (1.00 MiB).\n"
    )


def test_a_long_table_ends_after_200_rows_and_says_so() -> None:
    page = markdown(report(205))
    assert page.count("| `runs/") == 200
    assert "And 5 more, 2.50 GiB together." in page


def test_the_largest_comes_first(box: Box) -> None:
    box.entry("clean-a", 10, days=200)
    box.entry("clean-b", 20, days=200)
    page = markdown(maintain_folder(box.root, box.store, MaintenanceSpec(), box.now))
    assert page.index("b" * 24) < page.index("a" * 24)


def test_a_dry_run_removes_nothing_and_the_default_is_a_dry_run(either_box: Box, caplog: pytest.LogCaptureFixture) -> None:
    box = either_box
    entry = box.entry("clean-a", 1000, days=91)
    before = box.there()
    with caplog.at_level(logging.INFO, "tuneflow"):
        found = maintain_folder(box.root, box.store, MaintenanceSpec(), box.now)
    assert box.there() == before
    assert (found.dry_run, found.bytes_freed, [item.removed for item in found.items]) == (True, 1013, [False])
    assert caplog.messages == [
        f"would remove cache {entry}, 1013 bytes: not used for 91 days, limit 90",
        "Dry run: 1 folder would go, which would free 0.00 GiB.",
    ]
    swept = maintain_folder(box.root, box.store, MaintenanceSpec(dry_run=False), box.now)
    assert box.there() == set()
    assert (swept.dry_run, swept.bytes_freed, [item.removed for item in swept.items]) == (False, 1013, [True])
    assert swept.workspace == str(box.root)
    assert swept.store == box.store.root
    assert maintain_folder(box.root, box.store, MaintenanceSpec(dry_run=False), box.now).items == ()
