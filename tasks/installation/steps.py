"""Setting up a Prefect API: each thing is made, changed or kept, by its name, as often as it is asked."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import BlockDocument
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL
from pydantic import ValidationError

from blocks.access import DataAccess
from blocks.encryption import DataKey
from blocks.hub import ModelHub
from blocks.store import ArtifactStore
from blocks.tracking import MlflowTracking
from tasks.environment import ROOT
from tasks.errors import InputError, ServiceError, StageError, without_login
from tasks.installation.automations import FILE, comparable, no_such_block, read_automations
from tasks.installation.deployments import FILE as DEPLOYMENTS
from tasks.installation.deployments import Asked, Found, found_deployment, missing, read_deployments
from tasks.installation.pools import Pool, check_type, wanted_pools
from tasks.installation.spec import PREFIX, InstallationSpec, Item, outcome_of

T = TypeVar("T")
Tell = Callable[[Item], None]
_BLOCKS: tuple[type[Block], ...] = (MlflowTracking, ArtifactStore, ModelHub, DataAccess, DataKey)
_PAGE = 200


def install(spec: InstallationSpec, tell: Tell) -> None:
    """Set up the API of PREFECT_API_URL, and tell of each item as it stands.

    Raises:
        InputError: a file of the project is wrong.
        ServiceError: the API does not answer, refuses, or holds something of the same name that is something else.
        StageError: a deployment is not there after deploying.
    """
    pools = wanted_pools(spec)
    with _answering() as client:
        notify_id = notification_block(client, spec.notify) if spec.notify else None
        for pool in pools:
            tell(set_pool(client, pool))
        tell(set_limit(client, "gpu", spec.gpu_devices))
        for block in _BLOCKS:
            tell(register(client, block))
        for item in set_automations(client, spec, notify_id):
            tell(item)
        for item in deploy(client, spec.workspace):
            tell(item)


@contextmanager
def _answering() -> Iterator[SyncPrefectClient]:
    """A client of an API that answers; what it refuses later is a ServiceError too."""
    address = os.environ["PREFECT_API_URL"]
    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
            yield client
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ServiceError(
                f"The Prefect API at {without_login(address)} refuses the log-in (status {status}). Set "
                "PREFECT_API_AUTH_STRING to the server's user:password."
            ) from error
        raise ServiceError(
            f"The Prefect API at {without_login(address)} answered {status} to {error.request.method} "
            f"{error.request.url.path}: {error.response.text[:500]}. Expected a server of Prefect 3.8, and an address that "
            "ends in /api."
        ) from error
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ServiceError(
            f"No Prefect API answers at {without_login(address)}: {error}. Start a server with `tuneflow up`, or correct "
            "PREFECT_API_URL."
        ) from error


def set_pool(client: SyncPrefectClient, pool: Pool) -> Item:
    """Make the pool, or set its limit; its other settings are its user's once it is there.

    Raises:
        ServiceError: a pool of that name has another type.
    """
    try:
        found = client.read_work_pool(pool.name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=pool.name, type=pool.type, base_job_template=pool.template, concurrency_limit=pool.limit)
        )
        return Item(what="work pool", name=pool.name, outcome="made")
    check_type(pool, found.type)
    if found.concurrency_limit == pool.limit:
        return Item(what="work pool", name=pool.name, outcome="kept")
    client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=pool.limit))
    return Item(what="work pool", name=pool.name, outcome="changed")


def set_limit(client: SyncPrefectClient, name: str, limit: int) -> Item:
    """Make or set a global concurrency limit."""
    try:
        found = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=limit, active=True))
        return Item(what="limit", name=name, outcome="made")
    if (found.limit, found.active) == (limit, True):
        return Item(what="limit", name=name, outcome="kept")
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=limit, active=True))
    return Item(what="limit", name=name, outcome="changed")


def register(client: SyncPrefectClient, block: type[Block]) -> Item:
    """Register a block type with its present fields."""
    name, checksum = block.get_block_type_slug(), block._calculate_schema_checksum()
    try:
        client.read_block_type_by_slug(name)
    except ObjectNotFound:
        block.register_type_and_schema()
        return Item(what="block type", name=name, outcome="made")
    try:
        client.read_block_schema_by_checksum(checksum, version=block.get_block_schema_version())
    except ObjectNotFound:
        block.register_type_and_schema()
        return Item(what="block type", name=name, outcome="changed")
    return Item(what="block type", name=name, outcome="kept")


def notification_block(client: SyncPrefectClient, asked: str) -> UUID:
    """The id of the saved notification block TYPE/NAME.

    Raises:
        ServiceError: there is none, or it cannot notify.
    """
    known = {_address(block): block.id for block in _saved_blocks(client) if _notifies(block)}
    if asked not in known:
        raise no_such_block(asked, list(known))
    return known[asked]


def _saved_blocks(client: SyncPrefectClient) -> Iterator[BlockDocument]:
    return _pages(lambda offset: client.read_block_documents(limit=_PAGE, offset=offset, include_secrets=False))


def _notifies(block: BlockDocument) -> bool:
    return block.block_schema is not None and "notify" in block.block_schema.capabilities


def _address(block: BlockDocument) -> str:
    return f"{block.block_type.slug if block.block_type else ''}/{block.name}"


def set_automations(client: SyncPrefectClient, spec: InstallationSpec, notify_id: UUID | None) -> Iterator[Item]:
    """Make or update the automations of the file; alerts only where a block to notify is given, else they stay as they are."""
    declared = read_automations(spec, PREFECT_UI_URL.value() or "", str(notify_id or UUID(int=0)))
    there = {automation.name: automation for automation in _automations(client) if automation.name.startswith(PREFIX)}
    for entry in declared.always:
        yield _set_automation(client, _parsed(entry), there.get(entry["name"]))
    for entry in declared.alerts:
        if notify_id:
            yield _set_automation(client, _parsed(entry), there.get(entry["name"]))
        elif entry["name"] in there:
            yield Item(what="automation", name=entry["name"], outcome="kept")


def _automations(client: SyncPrefectClient) -> Iterator[Automation]:
    return _pages(lambda offset: client.read_automations(limit=_PAGE, offset=offset))


def _parsed(entry: dict[str, Any]) -> AutomationCore:
    try:
        core = AutomationCore.model_validate(entry)
    except ValidationError as error:
        raise InputError(
            f"{FILE}, {entry['name']!r}: {error}. Prefect's page on automations says what one may hold."
        ) from error
    # Once more, so that every field counts as set: an update leaves out what does not.
    return AutomationCore.model_validate(core.model_dump(exclude={"owner_resource"}))


def _set_automation(client: SyncPrefectClient, wanted: AutomationCore, found: Automation | None) -> Item:
    if found is None:
        client.create_automation(wanted)
        return Item(what="automation", name=wanted.name, outcome="made")
    outcome = outcome_of(comparable(found.model_dump(mode="json")), comparable(wanted.model_dump(mode="json")))
    if outcome == "changed":
        client.update_automation(found.id, wanted.model_copy(update={"enabled": found.enabled}))
    return Item(what="automation", name=wanted.name, outcome=outcome)


def deploy(client: SyncPrefectClient, workspace: Path, file: Path = DEPLOYMENTS) -> list[Item]:
    """Deploy the file's deployments; what a user switched on or off stays so.

    Raises:
        StageError: one was not deployed.
    """
    asked = read_deployments(file)
    before = _deployments(client, asked)
    code, said = _prefect_deploy(workspace, file)
    after = _deployments(client, asked)
    # The exit code alone does not tell: it may be 0 where a deployment was left out.
    problems = missing(asked, before, after)
    if code or problems:
        raise StageError(
            f"`prefect deploy` of {file} ended with exit code {code}: {'; '.join(problems) or 'all is there'}. It said:\n{said}"
        )
    for name in before.keys() & after.keys():
        _keep_switches(client, before[name], after[name])
    says = {name: found.says for name, found in before.items()}
    names = [deployment.name for deployment in asked]
    return [Item(what="deployment", name=name, outcome=outcome_of(says.get(name), after[name].says)) for name in names]


def _prefect_deploy(workspace: Path, file: Path) -> tuple[int, str]:
    """Exit code and words of `prefect deploy`."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "TUNEFLOW_HOME": str(ROOT), "TUNEFLOW_WORKSPACE": str(workspace), "COLUMNS": "160"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _deployments(client: SyncPrefectClient, asked: Sequence[Asked]) -> dict[str, Found]:
    """Those of the file that the server holds, by name."""
    entrypoints = {deployment.name: deployment.entrypoint for deployment in asked}
    found: dict[str, Found] = {}
    for deployment in _pages(lambda offset: client.read_deployments(limit=_PAGE, offset=offset)):
        if entrypoints.get(deployment.name) != deployment.entrypoint:
            continue
        automations = client.read_resource_related_automations(f"prefect.deployment.{deployment.id}")
        found[deployment.name] = found_deployment(
            deployment.model_dump(mode="json"), [automation.model_dump(mode="json") for automation in automations]
        )
    return found


def _pages(read: Callable[[int], Sequence[T]]) -> Iterator[T]:
    """All that there is of something that the API gives a page at a time."""
    offset = 0
    while page := read(offset):
        yield from page
        offset += len(page)


def _keep_switches(client: SyncPrefectClient, before: Found, after: Found) -> None:
    """Put back whether the deployment, its schedules and its triggers are on: deploying sets them as the file says."""
    if before.paused != after.paused:
        client.set_deployment_paused_state(UUID(after.id), before.paused)
    for slug, (schedule_id, active) in after.schedules.items():
        if slug in before.schedules and before.schedules[slug][1] != active:
            client.update_deployment_schedule(UUID(after.id), UUID(schedule_id), active=not active)
    were_enabled = {name: enabled for name, _, enabled in before.automations}
    for name, automation_id, enabled in after.automations:
        if were_enabled.get(name, enabled) != enabled:
            switch = client.pause_automation if enabled else client.resume_automation
            switch(UUID(automation_id))
