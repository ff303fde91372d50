"""The automations of infra/automations.yaml: reading them, and seeing whether one on the server still says the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tasks.environment import ROOT
from tasks.errors import InputError, ServiceError
from tasks.installation.spec import PREFIX, InstallationSpec

FILE = ROOT / "infra" / "automations.yaml"
# The server gives each trigger an id of its own; whether an automation is switched on is for the user to say.
_NOT_COMPARED = {"id", "enabled", "created", "updated", "owner_resource"}


@dataclass(frozen=True)
class Declared:
    """The file's automations, as Prefect's models take them."""

    always: list[dict[str, Any]]
    alerts: list[dict[str, Any]]


def read_automations(spec: InstallationSpec, ui: str, notify_id: str, path: Path = FILE) -> Declared:
    """The automations of the file, with the asked minutes, the UI's address and the notification block put in.

    Raises:
        InputError: the file is not YAML, or uses a value that is not there.
    """
    values = {
        "stall_minutes": f"{spec.stall_minutes:g}", "stall_seconds": f"{spec.stall_minutes * 60:g}",
        "idle_seconds": f"{spec.idle_minutes * 60:g}", "ui": ui.rstrip("/"),
    }  # fmt: skip
    try:
        content = yaml.safe_load(Template(path.read_text(encoding="utf-8")).substitute(values))
        return Declared(
            always=[_named(entry) for entry in content["automations"]],
            alerts=[_alert(_named(entry), notify_id) for entry in content["alerts"]],
        )
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} cannot be read: {error!r}. Expected YAML with `automations` and `alerts`, and of values after a $ only "
            f"{', '.join(values)}."
        ) from error


def _named(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **entry,
        "name": PREFIX + entry["name"],
        "description": " ".join(entry["description"].split()),
        "tags": ["tuneflow"],
    }


def _alert(entry: dict[str, Any], notify_id: str) -> dict[str, Any]:
    action = {
        "type": "send-notification", "block_document_id": notify_id, "subject": entry.pop("subject"), "body": entry.pop("body"),
    }  # fmt: skip
    return {**entry, "actions": [action]}


def comparable(automation: object) -> object:
    """What an automation says, without what the server or the user adds, and with sets in one order."""
    if isinstance(automation, dict):
        return {key: comparable(value) for key, value in automation.items() if key not in _NOT_COMPARED}
    if isinstance(automation, list):
        values = [comparable(value) for value in automation]
        return sorted(values, key=str) if all(isinstance(value, str) for value in values) else values
    return automation


def no_such_block(asked: str, known: list[str]) -> ServiceError:
    """The error for a notification block that cannot be used."""
    return ServiceError(
        f"--notify {asked!r} names no saved notification block. There are: {', '.join(sorted(known)) or 'none'}. Make one "
        "in the UI under Blocks, for instance a Slack Webhook named team, and give its type and name: --notify "
        "slack-webhook/team."
    )
