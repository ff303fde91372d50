"""Seconds until a page of Prefect's UI can be used, in a headless Chromium. Prints a Markdown table.

    .venv/bin/python benchmarks/pages.py [--address http://127.0.0.1:4200] [--times 5] [--json]

It needs a server that runs, with the deployments and at least one flow run: `tuneflow up`, then a run. The form is usable when
its last field and Submit are there, the page of a run when it shows the run's name. Cold is a browser without a cache, warm the
same page once more in the same browser; each is measured several times, and the table shows the median and the range.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.api import Api  # noqa: E402
from tests.browser import launch  # noqa: E402

GOAL_SECONDS = 2.0


@dataclass(frozen=True)
class Target:
    """A page, and what waits until it can be used."""

    name: str
    url: str
    usable: Callable[[Page], None]


def targets(address: str) -> list[Target]:
    """The form of finetune and the page of the newest flow run."""
    api = Api(f"{address}/api")
    deployment = api.deployment("finetune/finetune")["id"]
    runs = api.post("/flow_runs/filter", {"limit": 1, "sort": "START_TIME_DESC"})
    assert runs, f"{address} has no flow run: start one first"
    name = runs[0]["name"]

    def form_is_usable(page: Page) -> None:
        page.get_by_label("Seed (Optional)").wait_for()
        page.locator("button:enabled", has_text="Submit").wait_for()

    return [
        Target("form of finetune", f"{address}/v2/deployments/deployment/{deployment}/run", form_is_usable),
        Target(
            "page of a run", f"{address}/v2/runs/flow-run/{runs[0]['id']}", lambda page: page.get_by_text(name).first.wait_for()
        ),
    ]


def measure(browser: Browser, target: Target) -> tuple[float, float]:
    """Seconds in a new browser, and once more in the same."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    seconds = []
    for _ in range(2):
        page.goto("about:blank")
        before = time.perf_counter()
        page.goto(target.url, wait_until="commit")
        target.usable(page)
        seconds.append(time.perf_counter() - before)
    context.close()
    return seconds[0], seconds[1]


def table(rows: Sequence[dict[str, object]], load: float) -> str:
    """The measurements in Markdown."""
    lines = ["| page | cache | median, s | range, s | below 2 s |", "|---|---|---:|---:|---|"]
    for row in rows:
        verdict = "yes" if float(str(row["median"])) < GOAL_SECONDS else "no"
        lines.append(f"| {row['page']} | {row['cache']} | {row['median']} | {row['least']} to {row['most']} | {verdict} |")
    return "\n".join([*lines, "", f"Load average before: {load:.1f}."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--address", default="http://127.0.0.1:4200")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    rows: list[dict[str, object]] = []
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for target in targets(asked.address):
            pairs = [measure(browser, target) for _ in range(asked.times)]
            for cache, seconds in zip(("cold", "warm"), zip(*pairs, strict=True), strict=True):
                figures = {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
                rounded = {name: f"{value:.2f}" for name, value in figures.items()}
                rows.append({"page": target.name, "cache": cache, **rounded})
        browser.close()
    print(json.dumps({"load": load, "rows": rows}) if asked.json else table(rows, load))
    return 0


if __name__ == "__main__":
    sys.exit(main())
