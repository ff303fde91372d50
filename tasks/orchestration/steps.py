"""Prefect's flow runs: reading their states, starting others on work pools, and ending those with this one."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import get_client
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, WorkerFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext, TagsContext, TaskRunContext
from prefect.deployments import run_deployment
from prefect.events import Event, emit_event
from prefect.exceptions import CancelledRun, ObjectNotFound
from prefect.states import Cancelled, Cancelling

from tasks.contracts import digest_of
from tasks.environment import EMBEDDED
from tasks.errors import ServiceError, StageError, StoppedError

log = logging.getLogger("tuneflow")
P = ParamSpec("P")
R = TypeVar("R")

PART = "tuneflow-part"
GPU_LIMIT = "gpu"  # the global concurrency limit that counts devices
_GENERATIONS = 5
_SLOT_SECONDS = 60.0  # a slot whose holder is gone is free after this long; the least that Prefect takes
_LONELY_SECONDS = 30.0  # before a missing worker is spoken of
_FAREWELL_SECONDS = 20.0  # below the 30 s that a worker gives a cancelled run


# --- states -----------------------------------------------------------------------------------------------------------


def own_flow_run() -> FlowRun | None:
    """The flow run of this context, or None outside of one."""
    context = FlowRunContext.get()
    return context.flow_run if context else None


def is_deployed() -> bool:
    """Whether this flow run was started from a deployment, so that a work pool carries it."""
    run = own_flow_run()
    return bool(run and run.deployment_id)


def waits_for_answer(flow_run_id: str) -> bool:
    """Whether a flow run is suspended until a person answers; False for one that this server does not know."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(flow_run_id)).state
    except (ObjectNotFound, ValueError):
        return False
    return bool(state and state.is_paused())


def stop_reason() -> str:
    """Why heavy work must stop: this flow run, or one above it, is over or being cancelled; else ""."""
    run_id = _flow_run_id()
    if run_id is None:
        return ""
    try:
        ids = [run_id, *ancestors(run_id)]
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
    except Exception as error:  # a server that is away for a moment ends no training
        log.warning("the state of the flow run could not be read: %s", error)
        return ""
    for run in runs:
        if run.state and (run.state.is_cancelling() or run.state.is_final()):
            return f"{'its flow run' if run.id == run_id else f'the flow run {run.name} above it'} is {run.state.name}"
    return ""


@lru_cache(maxsize=64)
def ancestors(run_id: UUID) -> tuple[UUID, ...]:
    """The flow runs above one, the nearest first."""
    found: list[UUID] = []
    with get_client(sync_client=True) as client:
        for _ in range(_GENERATIONS):
            task_run = client.read_flow_run(found[-1] if found else run_id).parent_task_run_id
            parent = client.read_task_run(task_run).flow_run_id if task_run else None
            if parent is None:
                break
            found.append(parent)
    return tuple(found)


def belongs_to(flow_run_id: str) -> bool:
    """Whether this flow run is a part of the flow run with that id."""
    run = own_flow_run()
    return bool(run and flow_run_id and flow_run_id in map(str, ancestors(run.id)))


@contextmanager
def as_parts() -> Iterator[None]:
    """Flow runs that are started inside are tagged as parts: automations look after them, and tell nobody of them."""
    with TagsContext(current_tags={PART}):
        yield


def stoppable(function: Callable[P, R]) -> Callable[P, R]:
    """A flow's function that ends as Cancelled, not as Failed, where its work was stopped on purpose."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (StoppedError, CancelledRun) as error:
            log.warning("stopped: %s", str(error).partition("\n")[0])
            # Prefect takes a state for the flow's end; whoever called the flow gets it as CancelledRun.
            return Cancelled(message=str(error).partition("\n")[0])  # type: ignore[return-value]

    return call


def _flow_run_id() -> UUID | None:
    task = TaskRunContext.get()
    if task is not None:
        return task.task_run.flow_run_id
    run = own_flow_run()
    return run.id if run else None


# --- runs on work pools -----------------------------------------------------------------------------------------------


@dataclass
class _Child:
    deployment: str
    run: FlowRun
    since: float
    told: bool = False


class Children:
    """Flow runs started on work pools by this one."""

    def __init__(self) -> None:
        self._under_way: dict[UUID, _Child] = {}

    def start(self, deployment: str, parameters: Mapping[str, Any], attempt: int = 0) -> FlowRun:
        """Start a deployment, or find the run that an earlier start of this flow run made of it.

        Raises:
            ServiceError: there is no such deployment.
        """
        parent = own_flow_run()
        key = digest_of([str(parent.id) if parent else "", deployment, parameters, attempt])
        try:
            run = run_deployment(deployment, parameters=dict(parameters), timeout=0, idempotency_key=key)
        except ObjectNotFound as error:
            raise ServiceError(f"Prefect has no deployment {deployment}. Make it with `tuneflow setup`.") from error
        assert isinstance(run, FlowRun)
        if not (run.state and run.state.is_final()):
            self._under_way[run.id] = _Child(deployment, run, time.monotonic())
            log.info("%s: waits for a worker as flow run %s", deployment, run.name)
        return run

    def ended(self) -> list[FlowRun]:
        """Those that have ended since the last call.

        Raises:
            StoppedError: this flow run is over or being cancelled.
        """
        if reason := stop_reason():
            raise StoppedError(f"Waiting for other runs was stopped: {reason}.")
        over = []
        for run in self._read():
            child = self._under_way[run.id]
            if run.state and run.state.is_final():
                del self._under_way[run.id]
                over.append(run)
            elif run.state and run.state.is_scheduled():
                self._look_for_worker(child)
        return over

    def cancel(self) -> None:
        """Ask all to stop, and give them some time: Prefect itself would reach one after another, about 20 s apart."""
        with get_client(sync_client=True) as client:
            for run_id in self._under_way:
                client.set_flow_run_state(run_id, Cancelling(message="the run above it ended"))
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while self._under_way and time.monotonic() < deadline:
            for run in self._read():
                if run.state and run.state.is_final():
                    del self._under_way[run.id]
            time.sleep(0.5)

    def _read(self) -> list[FlowRun]:
        if not self._under_way:
            return []
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(self._under_way)))
        with get_client(sync_client=True) as client:
            return client.read_flow_runs(flow_run_filter=wanted)

    def _look_for_worker(self, child: _Child) -> None:
        if child.told or time.monotonic() - child.since < _LONELY_SECONDS:
            return
        child.told = True
        pool = child.run.work_pool_name or "its pool"
        with get_client(sync_client=True) as client:
            workers = client.read_workers_for_work_pool(pool, worker_filter=WorkerFilter())
        online = sum(str(getattr(worker.status, "value", worker.status)) == "ONLINE" for worker in workers)
        what = f"its {online} worker(s) are busy, or its limit is reached" if online else "no worker of it is online"
        log.warning("%s: still waits for the work pool %s: %s", child.deployment, pool, what)


@contextmanager
def children() -> Iterator[Children]:
    """Runs that end with this one: where an exception leaves, a cancellation among them, they are cancelled first."""
    family = Children()
    try:
        yield family
    except BaseException:
        family.cancel()
        raise


def run_on_pool(
    deployment: str,
    parameters: Mapping[str, Any],
    *,
    whole: Callable[[], bool] = lambda: True,
    pauses: tuple[float, ...] = (5.0, 20.0, 60.0),
    poll_seconds: float = 1.0,
) -> None:
    """Run a deployment to its end on its work pool. One that crashes is started again, after a pause.

    Args:
        deployment: flow/deployment.
        parameters: of the flow, as JSON.
        whole: whether what a completed run left is still there; asked where an earlier start of this flow run had it done.
        pauses: seconds before each new try after a crash.
        poll_seconds: between two looks at its state.

    Raises:
        StageError: it failed, or crashed too often.
        StoppedError: it was cancelled, or this flow run was.
    """
    crashes = attempt = 0
    with children() as family:
        while True:
            run = family.start(deployment, parameters, attempt)
            attempt += 1
            if run.state and run.state.is_final():  # of an earlier start of this flow run
                if run.state.is_completed() and whole():
                    log.info("%s: done before as flow run %s", deployment, run.name)
                    return
                continue
            run = _wait(family, poll_seconds)
            if _settled(deployment, run):
                return
            if crashes == len(pauses):
                raise StageError(f"{deployment} crashed {crashes + 1} times, last as flow run {run.name}: {_message(run)}")
            log.warning("%s: crashed (%s); starting it again in %.0f s", deployment, _message(run), pauses[crashes])
            _pause(family, pauses[crashes])
            crashes += 1


def _wait(family: Children, poll_seconds: float) -> FlowRun:
    while True:
        if over := family.ended():
            return over[0]
        time.sleep(poll_seconds)


def _pause(family: Children, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        family.ended()  # raises where this run is cancelled meanwhile
        time.sleep(min(1.0, seconds))


def _settled(deployment: str, run: FlowRun) -> bool:
    """True for a completed run, False for a crashed one."""
    assert run.state is not None
    if run.state.is_cancelled():
        raise StoppedError(f"{deployment} was cancelled as flow run {run.name}.")
    if run.state.is_failed():
        raise StageError(f"{deployment} failed as flow run {run.name}: {_message(run)}")
    return run.state.type == StateType.COMPLETED


def _message(run: FlowRun) -> str:
    text = (run.state.message if run.state else "") or "it left no message"
    return text.removeprefix("Flow run encountered an exception: ")


# --- slots and announcements ------------------------------------------------------------------------------------------


@contextmanager
def gpu_slots(count: int) -> Iterator[None]:
    """Hold `count` slots of the limit that counts devices over all machines. A command with a server of its own has none.

    A slot is freed when its holder is gone. Where the server was away too long a slot is lost while its holder goes on: the
    lease on the device itself still keeps others away.

    Raises:
        ServiceError: the server has no such limit.
    """
    if not count or os.environ.get(EMBEDDED):
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(
                concurrency(
                    GPU_LIMIT, occupy=count, strict=True, lease_duration=_SLOT_SECONDS, raise_on_lease_renewal_failure=False
                )
            )
        except ConcurrencySlotAcquisitionError as error:
            raise ServiceError(
                f"Prefect gives no slot of its limit {GPU_LIMIT!r}: {error} `tuneflow setup` makes it."
            ) from error
        yield


def announce(event: str, name: str, text: str, *, follows: Event | None = None, **payload: Any) -> Event | None:
    """Emit an event about the run `name`, for automations to act on: tuneflow.<event>.

    Args:
        follows: the one announced before it. A server takes up events in any order but for those that name the one before.

    Returns:
        the event, or None where no server takes events.
    """
    run_id = _flow_run_id()
    return emit_event(
        f"tuneflow.{event}",
        resource={"prefect.resource.id": f"tuneflow.run.{name}", "prefect.resource.name": name},
        payload={"run": name, "text": text, "flow_run_id": str(run_id) if run_id else "", **payload},
        follows=follows,
    )


def show_progress(shown: UUID | None, share: float, text: str) -> UUID | None:
    """Show on the flow run's page how far long work is; outside of a flow run nothing.

    Args:
        shown: what the call before returned; None at first.
        share: of the work that is done, 0 to 1.
        text: beside the bar.
    """
    if _flow_run_id() is None:
        return shown
    try:
        if shown is None:
            made = create_progress_artifact(100 * share, description=text)
            return made if isinstance(made, UUID) else None
        update_progress_artifact(shown, 100 * share, description=text)
    except Exception as error:  # no bar is worth a training
        log.debug("the progress could not be shown: %s", error)
    return shown
