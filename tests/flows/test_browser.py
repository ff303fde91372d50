"""A person at the form in Prefect's UI: start a run, look at it, answer it. A real Chromium, a real server, real runs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.browser import Ui, browsing
from tests.flows.conftest import Installation, small

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
RUN_SECONDS = 1200.0  # most of it is waiting for processes to start on a busy machine
# What is empty where a person has filled in name, model and data alone.
STAGES = {
    "prepare-data": ("Name", "Model"),
    "search-settings": ("Run", "Trials", "Seed"),
    "train-trial": ("Run", "Number", "Seed"),
    "train-model": ("Run", "Epochs", "Seed"),
    "assess-model": ("Run", "Confidence", "Seed"),
    "release-model": ("Run", "Golden prompts"),
    "maintenance": ("Dry run", "Checkpoints"),
}


@pytest.fixture
def ui(installation: Installation, request: pytest.FixtureRequest) -> Iterator[Ui]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    with browsing(installation.address.removesuffix("/api"), name) as opened:
        yield opened


def fill_in(ui: Ui, name: str) -> None:
    """What a person must say, and sizes that suit a test."""
    ui.field("Name").fill(name)
    ui.field("Model").fill("models/quickstart-base")
    ui.section("Source").locator("textarea").fill("quickstart:")
    for title, value in {"Most rows": 600, "Most steps": 12, "Longest sequence": 256, "Learning rate": 0.003}.items():
        ui.field(title).fill(str(value))
    for title, value in {"Items": 40, "Generated items": 8, "Longest answer": 16}.items():
        ui.field(title).fill(str(value))


def test_a_run_is_started_from_the_form_and_its_report_is_read(ui: Ui, installation: Installation) -> None:
    ui.open_form("finetune")
    fill_in(ui, "from-the-form")
    ui.picture("form")
    run_id = ui.submit()
    posted = ui.posted("/create_flow_run")[-1]  # one that the server was too busy for is sent again
    request = posted["parameters"]["request"]
    assert (request["name"], request["base_model"]["uri"], request["data"]["source"]) == (
        "from-the-form", "models/quickstart-base", "quickstart:",
    )  # fmt: skip
    assert (request["training"]["max_steps"], request["training"]["max_length"]) == (12, 256)
    assert request["method"]["kind"] == "lora"
    ui.open_run(run_id)
    ui.wait_for_state("Completed", RUN_SECONDS)
    ui.picture("completed")
    result = json.loads((installation.workspace / "runs" / "from-the-form" / "result.json").read_text())
    assert result["model"]["steps"] == 12
    ui.open_artifact(run_id, "report-from-the-form")
    headline = installation.api.post("/artifacts/filter", {"artifacts": {"key": {"any_": ["report-from-the-form"]}}})[0]
    expect(ui.page.get_by_text(headline["description"], exact=True).first).to_be_visible()
    ui.picture("report")
    assert_pictures(ui, 4)


def test_wrong_values_stay_in_the_form_and_are_explained(ui: Ui) -> None:
    ui.open_form("finetune")
    fill_in(ui, "Support Bot")
    ui.field("Most steps").fill("-5")
    ui.submit_button.click()
    assert ui.field("Most steps").evaluate("field => field.validity.rangeUnderflow")  # the browser itself sends nothing
    ui.picture("below-the-range")
    assert ui.posted("/create_flow_run") == []
    ui.field("Most steps").fill("12")
    ui.field("Dropout").fill("1")  # the browser knows no limit that is itself excluded
    ui.submit_button.click()
    explained = ui.message("name is 'Support Bot': use 1 to 63 lower-case letters, digits and dashes")
    expect(explained).to_contain_text("method.dropout is 1, expected below 1")
    expect(ui.section("Name")).to_contain_text("'Support Bot' does not match")
    ui.picture("refused")
    refused = [each.response() for each in ui.requests if each.url.endswith("/create_flow_run")]
    assert [answer.status for answer in refused if answer] == [409]
    ui.field("Name").fill("support-bot")
    expect(ui.section("Name")).not_to_contain_text("does not match")
    assert_pictures(ui, 3)


def test_a_key_that_no_field_has_is_refused_in_our_words(ui: Ui, installation: Installation) -> None:
    open_with(ui, installation, {**small("wrong", "quickstart:"), "trainning": {"epochs": 1}})
    ui.submit_button.click()
    expect(ui.message("Unknown key 'trainning'. Did you mean 'training'?")).to_be_visible()
    ui.picture("unknown-key")
    assert_pictures(ui, 1)


def test_every_form_shows_titled_fields_and_tabs_and_no_raw_json(ui: Ui) -> None:
    for deployment, titles in {"finetune": ("Name", "Model", "Seed"), **STAGES}.items():
        ui.open_form(deployment)
        for title in titles:
            expect(ui.field(title)).to_be_visible()
        labels = ui.page.locator("label").all_inner_texts()
        assert not [label for label in labels if "Spec" in label], labels
        tabs = ui.page.get_by_role("tab").all_inner_texts()
        assert not set(tabs) & {"str", "int", "list", "dict", "None | str"}, tabs
        assert ui.page.locator(".cm-editor, [data-testid=mock-json-input]").count() == 0, deployment
        ui.picture(deployment)


def open_with(ui: Ui, installation: Installation, request: dict[str, Any]) -> None:
    """The form filled in with a request, as Copy to new run opens it."""
    deployment = installation.api.deployment("finetune/finetune")["id"]
    values = quote(json.dumps({"request": request}))
    ui.page.goto(f"{ui.address}/v2/deployments/deployment/{deployment}/run?parameters={values}")
    expect(ui.field("Name")).to_have_value(request["name"])


def test_the_form_s_tabs_keep_and_send_what_they_say(ui: Ui, installation: Installation) -> None:
    ui.open_form("search-settings")
    expect(ui.page.get_by_role("tab", name="Random")).to_have_attribute("data-state", "active")
    ui.open_form("finetune")
    fill_in(ui, "Not Sent")
    ui.page.get_by_role("tab", name="Full fine-tuning").click()
    ui.page.get_by_role("tab", name="Grid").click()
    ui.page.get_by_role("tab", name="So many").click()
    ui.section("Devices").locator("input[type=number]").fill("1")
    ui.section("Columns").get_by_label("Question (Optional)").fill("ask")
    ui.page.get_by_role("tab", name="Several addresses").click()
    ui.section("Source").get_by_role("button", name="Add item").click()
    ui.section("Source").get_by_role("tab", name="Address and weight").click()
    ui.field("Address").fill("quickstart:")
    ui.picture("filled")
    ui.submit_button.click()
    expect(ui.message("name is 'Not Sent'")).to_be_visible()
    posted = ui.posted("/create_flow_run")[-1]  # one that the server was too busy for is sent again
    request = posted["parameters"]["request"]
    assert request["method"] == {"kind": "full"}
    assert request["search"]["strategy"] == {"kind": "grid", "points": 3}
    assert request["resources"]["devices"] == 1
    assert request["data"]["columns"]["question"] == "ask"
    assert request["data"]["source"] == [{"address": "quickstart:", "weight": 1}]
    again = small("again", "quickstart:", method={"kind": "full"}, search={"strategy": {"kind": "random"}})
    open_with(ui, installation, again)
    for title in ("Full fine-tuning", "Random", "One address", "All there are"):
        expect(ui.page.get_by_role("tab", name=title)).to_have_attribute("data-state", "active")


def test_nothing_leaves_the_machine_and_the_console_is_quiet(ui: Ui, installation: Installation) -> None:
    ui.open_form("finetune")
    run = installation.api.post("/flow_runs/filter", {"limit": 1, "sort": "START_TIME_DESC"})[0]
    ui.open_run(run["id"])
    expect(ui.page.get_by_text(run["name"]).first).to_be_visible()
    for page in ("dashboard", "artifacts", "blocks", "work-pools", "automations", "settings"):
        ui.page.goto(f"{ui.address}/v2/{page}")
        ui.page.wait_for_load_state("networkidle")
    assert len(ui.requests) > 50
    assert ui.hosts() == {"127.0.0.1"}
    assert ui.complaints() == []


def start_and_wait(ui: Ui, installation: Installation, name: str) -> dict[str, Any]:
    """A run that waits for a person, its page open."""
    request = small(name, "quickstart:", release={"approval": {"required": True}})
    run_id = installation.api.start("finetune/finetune", request)
    ui.open_run(run_id)
    ui.wait_for_state("Suspended", RUN_SECONDS)
    return request


def answer(ui: Ui, name: str, yes: bool, comment: str) -> None:
    """Open the dialog, read it, fill it in and send it."""
    ui.page.get_by_role("button", name="Open menu").first.click()
    ui.page.get_by_role("menuitem", name="Resume").click()
    dialog = ui.page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=re.compile("^Release "))).to_be_visible()
    expect(dialog).to_contain_text("Its verdict: pass")
    ui.picture("question")
    if yes:
        dialog.get_by_label("Release this model (Optional)").click()
    dialog.get_by_label("Your name (Optional)").fill(name)
    dialog.get_by_label("Comment (Optional)").fill(comment)
    ui.picture("answer")
    dialog.get_by_role("button", name=re.compile("^(Resume|Submit)")).click()
    expect(dialog).to_be_hidden()


def result_of(installation: Installation, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((installation.workspace / "runs" / name / "result.json").read_text())
    return found


def test_a_person_approves_a_release(ui: Ui, installation: Installation) -> None:
    request = start_and_wait(ui, installation, "approved")
    another = installation.api.start("finetune/finetune", request)
    message = installation.api.wait(another, "Failed", 90)["state"]["message"]
    assert "A run of 'approved' waits for a person's answer in Prefect" in message
    assert not (installation.workspace / "models" / "approved").exists()
    answer(ui, "Ada Lovelace", True, "reads well")
    ui.wait_for_state("Completed", RUN_SECONDS)
    ui.picture("completed")
    result = result_of(installation, "approved")
    assert result["status"] == "released"
    assert (result["approval"]["granted"], result["approval"]["by"]) == (True, "Ada Lovelace")
    assert result["approval"]["comment"] == "reads well"
    assert (installation.workspace / "models" / "approved" / "README.md").exists()


def assert_pictures(ui: Ui, least: int) -> None:
    """The pictures are there, and show something."""
    assert len(ui.pictures) >= least
    assert [picture for picture in ui.pictures if Path(picture).stat().st_size < 10_000] == []
