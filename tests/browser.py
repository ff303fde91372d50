"""Prefect's UI in a headless Chromium, as a person uses it: forms, runs, artifacts, answers."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Playwright, Request, expect, sync_playwright

from tests.servers import missing

ROOT = Path(__file__).parents[1]
PATIENCE = 180
# The UI's analytics library asks for its settings before it looks at ours; our policy forbids it, and the browser says so.
# The UI looks for its icons, of the tab and of a run's state, where they are not.
EXPECTED = re.compile(r"https://sr-client-cfg\.amplitude\.com/|\(http://127\.0\.0\.1:\d+/[\w-]+\.(ico|png|svg)\)$")


def screenshots() -> Path:
    """Where pictures of the pages are kept."""
    folder = Path(os.environ.get("TUNEFLOW_SCREENSHOTS") or ROOT / "tests" / "output")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Ui:
    """One page of the UI at `address`, with all that it asks for and says on its console."""

    def __init__(self, page: Page, address: str, name: str) -> None:
        self.page, self.address, self._name = page, address, name
        self.requests: list[Request] = []
        self.sockets: list[str] = []
        self.console: list[ConsoleMessage] = []
        self.pictures: list[Path] = []
        page.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)  # on a busy machine the server takes seconds to answer
        # Playwright marks the functions it is given, and a list's own methods bear no marks.
        page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108
        page.on("websocket", lambda socket: self.sockets.append(socket.url))
        page.on("console", lambda message: self.console.append(message))  # noqa: PLW0108

    def picture(self, what: str) -> None:
        """Keep a screenshot of what is seen."""
        path = screenshots() / f"{self._name}-{len(self.pictures) + 1}-{what}.png"
        self.page.screenshot(path=path)
        self.pictures.append(path)

    def open_form(self, deployment: str) -> None:
        """From the start page to the form of a deployment, by clicks."""
        self.page.goto(self.address)
        self.page.get_by_role("link", name="Deployments").click()
        self.page.get_by_placeholder("Search deployments").fill(deployment)
        self.page.wait_for_url(re.compile(f"={deployment}(&|$)"))  # the list is now the one that was asked for
        links = self.page.locator("a[href*='/deployments/deployment/']")
        links.get_by_text(deployment, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.picture("deployment")
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.submit_button.wait_for()
        self.page.locator("label", has_text="Store block").first.wait_for()
        self.page.wait_for_load_state("networkidle")  # the form has filled in its defaults

    def open_run(self, run_id: str) -> None:
        """The page of a flow run."""
        self.page.goto(f"{self.address}/v2/runs/flow-run/{run_id}")

    def open_artifact(self, run_id: str, key: str) -> None:
        """From the page of a flow run to one of its artifacts, by clicks."""
        self.open_run(run_id)
        self.page.get_by_role("tab", name="Artifacts").click()
        self.picture("artifacts")
        self.page.locator(f"a[href$='/artifacts/key/{key}']").first.click()
        self.page.wait_for_url(re.compile(f"/artifacts/key/{key}"))
        self.page.locator("a[href*='/artifacts/artifact/']").first.click()  # the newest of its versions
        self.page.wait_for_url(re.compile("/artifacts/artifact/"))

    @property
    def submit_button(self) -> Locator:
        return self.page.get_by_role("button", name="Submit")

    def field(self, title: str) -> Locator:
        """The input of a field, without the (Optional) that the form adds to its title."""
        return self.page.get_by_label(title, exact=True).or_(self.page.get_by_label(f"{title} (Optional)", exact=True)).first

    def section(self, title: str) -> Locator:
        """A field with all that belongs to it: tabs, lists, what is wrong with it."""
        label = self.page.locator("label").filter(has_text=title).first
        return label.locator("xpath=ancestor::div[@class and .//fieldset][1]")

    def submit(self) -> str:
        """Send the form; the id of the flow run."""
        for _ in range(3):
            with self.page.expect_response(re.compile("/create_flow_run$")) as sent:
                self.submit_button.click()
            if sent.value.status != 503:  # what a server answers whose SQLite file is busy
                break
        assert sent.value.status == 201, sent.value.text()
        self.page.get_by_role("link", name="View run").wait_for()
        self.picture("submitted")
        return str(self.page.get_by_role("link", name="View run").get_attribute("href")).rsplit("/", 1)[-1]

    def message(self, text: str) -> Locator:
        """A notice in the corner of the page."""
        return self.page.locator("[data-sonner-toast]").filter(has_text=text)

    def posted(self, path: str) -> list[Any]:
        """What the page has sent by POST to addresses that end so."""
        return [each.post_data_json for each in self.requests if each.method == "POST" and each.url.endswith(path)]

    def wait_for_state(self, state: str, seconds: float) -> None:
        """Wait until the page of a flow run shows its state."""
        expect(self.page.get_by_text(state, exact=True).first).to_be_visible(timeout=seconds * 1000)

    def hosts(self) -> set[str]:
        """The machines that were asked for anything; what the server's policy forbids is never sent, and so is not here."""
        return {str(urlparse(url).hostname) for url in [*(each.url for each in self.requests), *self.sockets] if "://" in url}

    def complaints(self) -> list[str]:
        """Errors on the console, without those that are expected."""
        errors = [each for each in self.console if each.type == "error"]
        found = [f"{each.text} ({each.location.get('url', '')})" for each in errors]
        return [text for text in found if not EXPECTED.search(text)]


def program() -> str:
    """Debian's Chromium."""
    return shutil.which("chromium") or missing("Chromium", "chromium")


def launch(playwright: Playwright) -> Browser:
    """A new browser without history."""
    return playwright.chromium.launch(executable_path=program(), args=["--no-sandbox", "--disable-gpu"])


@contextmanager
def browsing(address: str, name: str) -> Iterator[Ui]:
    """A page in a browser of its own. `name` begins the names of its pictures."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        try:
            yield Ui(browser.new_page(viewport={"width": 1300, "height": 1000}), address, name)
        finally:
            browser.close()
