"""The work pools: names, types, limits and base job templates."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.environment import ROOT
from tasks.errors import InputError, ServiceError
from tasks.installation.spec import InstallationSpec

FOLDER = ROOT / "infra" / "pools"
_TYPES = {"cpu": "process", "gpu": "process", "k8s-gpu": "kubernetes"}
_VARIABLE = re.compile(r"{{\s*([\w.-]+)\s*}}")


@dataclass(frozen=True)
class Pool:
    """A work pool that must be there."""

    name: str
    type: str
    limit: int
    template: dict[str, Any]


def wanted_pools(spec: InstallationSpec, folder: Path = FOLDER) -> list[Pool]:
    """The pools with their limits and templates.

    Raises:
        InputError: a template is missing, is no JSON, or uses a variable that it does not declare, or the reverse.
    """
    return [
        Pool(name, kind, spec.cpu_runs if name == "cpu" else spec.gpu_runs, read_template(folder / f"{name}.json"))
        for name, kind in _TYPES.items()
    ]


def read_template(path: Path) -> dict[str, Any]:
    """A base job template.

    Raises:
        InputError: as `wanted_pools`.
    """
    try:
        template: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        used, declared = set(_variables(template["job_configuration"])), set(template["variables"]["properties"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no base job template: {error!r}. Expected JSON with `job_configuration` and `variables.properties`."
        ) from error
    if used != declared:
        raise InputError(
            f"{path}: the variables used ({', '.join(sorted(used - declared)) or 'none'}) are not declared, and those declared "
            f"({', '.join(sorted(declared - used)) or 'none'}) are not used. Declare each variable of `job_configuration` in "
            "`variables.properties`, and no other."
        )
    return template


def check_type(pool: Pool, found: str) -> None:
    """A pool's type cannot be changed.

    Raises:
        ServiceError: it is another one.
    """
    if found != pool.type:
        raise ServiceError(
            f"The work pool {pool.name!r} is of type {found!r}, but type {pool.type!r} is needed, and a pool's type cannot be "
            f"changed. Delete it (`prefect work-pool delete {pool.name}`) and run `tuneflow setup` again."
        )


def _variables(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield from _VARIABLE.findall(value)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _variables(part)
    elif isinstance(value, list):
        for part in value:
            yield from _variables(part)
