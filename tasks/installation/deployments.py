"""The deployments of deployments.yaml: what must be there after deploying, and what deploying changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.environment import ROOT
from tasks.errors import InputError
from tasks.installation.automations import comparable

FILE = ROOT / "deployments.yaml"
_SAID = (
    "description", "entrypoint", "tags", "parameters", "parameter_openapi_schema", "enforce_parameter_schema", "pull_steps",
    "job_variables", "work_pool_name", "work_queue_name", "global_concurrency_limit", "concurrency_options",
)  # fmt: skip
_SCHEDULE = ("slug", "schedule", "parameters", "max_scheduled_runs")


@dataclass(frozen=True)
class Asked:
    """A deployment of the file."""

    name: str
    entrypoint: str
    pool: str
    triggers: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """A deployment on the server: what it says, and the switches that are its user's."""

    name: str
    id: str
    updated: str
    pool: str
    says: Mapping[str, Any]
    paused: bool
    schedules: Mapping[str, tuple[str, bool]] = field(default_factory=dict)  # by slug: id, and whether it is active
    # Name, id and whether it is enabled, of its triggers and of all else that runs it.
    automations: Sequence[tuple[str, str, bool]] = ()


def read_deployments(path: Path = FILE) -> list[Asked]:
    """The deployments of the file.

    Raises:
        InputError: it is missing, or a deployment has no name, entrypoint or pool.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [
            Asked(entry["name"], entry["entrypoint"], entry["work_pool"]["name"], _trigger_names(entry))
            for entry in content["deployments"]
        ]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} cannot be read: {error!r}. Expected YAML with `deployments`, each with name, entrypoint and work_pool."
        ) from error


def _trigger_names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    triggers = entry.get("triggers") or []
    # The name that Prefect gives to a trigger without one.
    return tuple(trigger.get("name", f"{entry['name']}__automation_{place}") for place, trigger in enumerate(triggers, start=1))


def found_deployment(deployment: Mapping[str, Any], automations: Sequence[Mapping[str, Any]]) -> Found:
    """A deployment from what the API answers."""
    schedules = deployment.get("schedules") or []
    named = {schedule["slug"] or str(schedule["schedule"]): schedule for schedule in schedules}
    says = {key: deployment.get(key) for key in _SAID}
    limit = says["global_concurrency_limit"]
    says["global_concurrency_limit"] = limit["limit"] if limit else None
    says["schedules"] = sorted(str({key: schedule.get(key) for key in _SCHEDULE}) for schedule in schedules)
    says["automations"] = sorted(str(comparable(dict(automation))) for automation in automations)
    return Found(
        name=deployment["name"], id=deployment["id"], updated=str(deployment["updated"]),
        pool=deployment.get("work_pool_name") or "", says=says, paused=bool(deployment.get("paused")),
        schedules={slug: (schedule["id"], schedule["active"]) for slug, schedule in named.items()},
        automations=[(automation["name"], automation["id"], automation["enabled"]) for automation in automations],
    )  # fmt: skip


def missing(asked: Sequence[Asked], before: Mapping[str, Found], after: Mapping[str, Found]) -> list[str]:
    """What is not as the file says after deploying, one sentence each."""
    problems = []
    for deployment in asked:
        there = after.get(deployment.name)
        if there is None:
            problems.append(f"{deployment.name} ({deployment.entrypoint}) is not there")
            continue
        if deployment.name in before and before[deployment.name].updated == there.updated:
            problems.append(f"{deployment.name} is still the one from before")
        if there.pool != deployment.pool:
            problems.append(f"{deployment.name} is on the pool {there.pool!r}, not on {deployment.pool!r}")
        names = [name for name, _, _ in there.automations]
        problems += [
            f"{deployment.name} has the trigger {trigger!r} {names.count(trigger)} times, not once"
            for trigger in deployment.triggers
            if names.count(trigger) != 1
        ]
    return problems
