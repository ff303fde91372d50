"""infra/automations.yaml and deployments.yaml as read, and what counts as a difference."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.events.schemas.automations import AutomationCore
from prefect.server.events.schemas.automations import AutomationCore as ServerAutomation

from tasks.errors import InputError
from tasks.installation.automations import comparable, no_such_block, read_automations
from tasks.installation.deployments import Asked, Found, found_deployment, missing, read_deployments
from tasks.installation.pools import wanted_pools
from tasks.installation.spec import InstallationSpec, Item, outcome_of

SPEC = InstallationSpec(workspace=Path("/w"), stall_minutes=45, idle_minutes=2)
BLOCK = "00000000-0000-0000-0000-000000000001"
DECLARED = read_automations(SPEC, "http://ui:4200/", BLOCK)
EVERY = [*DECLARED.always, *DECLARED.alerts]


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["name"])
def test_every_automation_is_one_for_prefect_s_client_and_for_its_server(entry: dict[str, Any]) -> None:
    core = AutomationCore.model_validate(entry)
    server = ServerAutomation.model_validate(core.model_dump(mode="json", exclude={"owner_resource"}))  # Jinja is checked too
    assert server.name.startswith("tuneflow: ")
    assert len(server.description) > 20
    assert "$" not in str(entry)


def test_asked_minutes_the_address_of_the_ui_and_the_block_are_put_in() -> None:
    alerts = {entry["name"].removeprefix("tuneflow: tell of "): entry for entry in DECLARED.alerts}
    assert alerts["stalled trainings"]["trigger"]["within"] == 2700
    assert alerts["stalled trainings"]["description"] == "A training made no step for 45 minutes."
    assert alerts["idle devices"]["trigger"]["within"] == 120
    for entry in DECLARED.alerts:
        action = entry["actions"][0]
        assert action["block_document_id"] == BLOCK
        assert "http://ui:4200/runs/flow-run/{{" in action["body"]


def test_nothing_is_set_crashed_that_may_send_signs_of_life_less_often() -> None:
    trigger = DECLARED.always[0]["trigger"]
    assert trigger["match_related"]["prefect.resource.id"] == ["prefect.tag.tuneflow", "prefect.tag.tuneflow-part"]
    assert trigger["within"] > 2 * 30  # two signs of life may be lost


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("automations: []", "KeyError.*'alerts'"),
        ("automations: [\n", "ParserError"),
        ("automations: []\nalerts: [{name: $minutes}]", "KeyError.*'minutes'.*of values after a \\$ only stall_minutes"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "automations.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"automations.yaml cannot be read: {message}"):
        read_automations(SPEC, "", "", path)


def test_what_the_server_and_the_user_add_and_the_order_of_sets_are_no_difference() -> None:
    wanted = {"name": "a", "trigger": {"expect": ["x", "y"], "match": {}}, "actions": [{"type": "b"}]}
    found = {
        "id": 1, "enabled": False, "created": "now", "name": "a", "actions": [{"type": "b"}],
        "trigger": {"id": 2, "expect": ["y", "x"], "match": {}},
    }  # fmt: skip
    assert comparable(found) == comparable(wanted)
    assert comparable({**found, "actions": [{"type": "c"}]}) != comparable(wanted)


def test_outcomes() -> None:
    assert [outcome_of(None, 1), outcome_of(1, 1), outcome_of(1, 2)] == ["made", "kept", "changed"]
    assert Item(what="limit", name="gpu", outcome="made").line() == "made     limit       gpu"
    message = str(no_such_block("slack-webhook/x", ["slack-webhook/team", "custom-webhook/a"]))
    assert "There are: custom-webhook/a, slack-webhook/team." in message


def test_the_shipped_deployments_are_read_and_each_is_on_a_pool_that_is_made() -> None:
    asked = {deployment.name: deployment for deployment in read_deployments()}
    assert asked["quickstart"].entrypoint == "flows.finetune.finetune"
    assert {deployment.pool for deployment in asked.values()} <= {pool.name for pool in wanted_pools(SPEC)}


def test_a_trigger_without_a_name_has_prefect_s(tmp_path: Path) -> None:
    path = tmp_path / "deployments.yaml"
    entry = "{name: a, entrypoint: m.f, work_pool: {name: gpu}, triggers: [{expect: [x]}, {name: mine}]}"
    path.write_text(f"deployments: [{entry}]", encoding="utf-8")
    assert read_deployments(path) == [Asked("a", "m.f", "gpu", ("a__automation_1", "mine"))]
    path.write_text("deployments: [{name: a}]", encoding="utf-8")
    with pytest.raises(InputError, match=r"deployments\.yaml cannot be read: KeyError\('entrypoint'\)"):
        read_deployments(path)


ONE = ("one", "1", True)
ASKED = [Asked("a", "m.f", "cpu", ("one",))]


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        ({}, ["a (m.f) is not there"]),
        ({"pool": "cpu", "automations": [ONE]}, []),
        ({"pool": "cpu", "automations": [ONE, ("a user's own", "2", True)]}, []),
        ({"pool": "gpu", "automations": [ONE]}, ["a is on the pool 'gpu', not on 'cpu'"]),
        ({"pool": "cpu", "automations": []}, ["a has the trigger 'one' 0 times, not once"]),
        ({"pool": "cpu", "automations": [ONE, ("one", "2", True)]}, ["a has the trigger 'one' 2 times, not once"]),
    ],
)
def test_what_is_missing_is_said(found: dict[str, Any], problems: list[str]) -> None:
    there = {"a": Found(name="a", id="0", updated="now", says={}, paused=False, **found)} if found else {}
    assert missing(ASKED, {}, there) == problems


def test_a_deployment_that_deploying_did_not_touch_is_said() -> None:
    there = Found(name="a", id="0", updated="now", says={}, paused=False, pool="cpu", automations=[ONE])
    assert missing(ASKED, {"a": replace(there, updated="then")}, {"a": there}) == []
    assert missing(ASKED, {"a": there}, {"a": there}) == ["a is still the one from before"]


def deployment(**changes: Any) -> Found:
    schedule = {"id": "9", "slug": "nightly", "active": False, "schedule": {"cron": "0 2 * * *"}, "parameters": {}}
    answer: dict[str, Any] = {
        "id": "0", "name": "a", "work_pool_name": "cpu", "work_queue_name": "default", "tags": ["x"], "updated": "then",
        "paused": False, "schedules": [schedule], "global_concurrency_limit": {"id": "5", "limit": 1, "active_slots": 0},
    }  # fmt: skip
    trigger = {"id": "7", "name": "one", "enabled": True, "trigger": {"id": "8", "expect": ["b", "a"]}}
    automations = changes.pop("automations", [trigger])
    return found_deployment({**answer, **changes}, automations)


def test_switches_and_ids_are_no_difference_between_deployments() -> None:
    other = deployment(
        updated="now", paused=True, global_concurrency_limit={"id": "6", "limit": 1, "active_slots": 1},
        schedules=[{"id": "10", "slug": "nightly", "active": True, "schedule": {"cron": "0 2 * * *"}, "parameters": {}}],
        automations=[{"id": "70", "name": "one", "enabled": False, "trigger": {"id": "80", "expect": ["a", "b"]}}],
    )  # fmt: skip
    assert deployment().says == other.says
    assert (deployment().paused, other.paused) == (False, True)
    assert (deployment().schedules, other.schedules) == ({"nightly": ("9", False)}, {"nightly": ("10", True)})
    assert (deployment().automations, other.automations) == ([("one", "7", True)], [("one", "70", False)])


@pytest.mark.parametrize(
    "change",
    [
        {"tags": []},
        {"parameters": {"request": {}}},
        {"schedules": []},
        {"automations": []},
        {"global_concurrency_limit": {"id": "5", "limit": 2}},
        {"job_variables": {"stream_output": True}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_deployment_says_is_a_difference(change: dict[str, Any]) -> None:
    assert deployment().says != deployment(**change).says
