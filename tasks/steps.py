"""What all stages' steps share: a step is a Prefect task with a content cache key, a child run in MLflow and a reason."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, wraps
from inspect import signature
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints
from uuid import UUID

from prefect import task
from prefect.blocks.core import Block
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import Event as Announcement
from prefect.states import Completed

from blocks.access import DataAccess
from blocks.encryption import DataKey
from blocks.hub import ModelHub
from blocks.store import ArtifactStore
from blocks.tracking import MlflowTracking
from tasks.caching import Outcome, run_cached
from tasks.contracts import RunContext, Value
from tasks.devices import leased, visible_devices, watched
from tasks.encryption import vault
from tasks.encryption.keys import MasterKey
from tasks.errors import ServiceError, without_login
from tasks.orchestration.steps import announce, gpu_slots, show_progress, stop_reason
from tasks.process import Event, child_environment, python_module, run_child
from tasks.progress import Reporter, in_words
from tasks.storage import Store
from tasks.tracking import Tracker

log = logging.getLogger("tuneflow")
P = ParamSpec("P")
_SAY_SECONDS = 30.0  # between two announcements of a training's steps
V = TypeVar("V", bound=Value)
B = TypeVar("B", bound=Block)


class StepContext:
    """What a step works with.

    Attributes:
        run: where the run works.
        folder: empty local folder for the step's files.
        uri: the address that `folder` will have.
        afterwards: called once the step's files are published.
        key: the step's cache key.
        store: where other steps' files lie.
    """

    def __init__(self, run: RunContext, step: str, folder: Path, uri: str, key: str) -> None:
        self.run, self.step, self.folder, self.uri, self.key = run, step, folder, uri, key
        self.store = store_of(run)
        self.tracker = tracker_of(run)
        self.run_id = ""
        self.reporter = Reporter(step)
        self.afterwards: list[Callable[[], None]] = []
        self._points: list[tuple[int, dict[str, float]]] = []
        self._sent = time.monotonic()
        self._said = -_SAY_SECONDS
        self._shown: UUID | None = None
        self._announced: Announcement | None = None

    @property
    def workspace(self) -> Path:
        """The local workspace."""
        return Path(self.run.workspace)

    @property
    def log_file(self) -> Path:
        """Where the output of this step's child process goes."""
        return self.run.folder / "logs" / f"{self.step}.log"

    def local(self, uri: str) -> Path:
        """A local path with the content of `uri`."""
        return self.store.local(uri)

    def run_worker(self, module: str, job: Value, accelerator: str, threads: int) -> None:
        """Run `python -m module JOB.json` as a child process to its end; the job file is gone afterwards.

        Raises:
            ChildError: it ended badly or was stopped.
        """
        path = self.folder / "job.json"
        path.write_text(job.model_dump_json(), encoding="utf-8")
        with self.held(accelerator, 1) as holds:
            run_child(
                python_module(module, str(path)), on_event=self.on_event, on_line=self.on_line, should_stop=stop_reason,
                log=self.log_file, environment=child_environment(accelerator, threads, self.run.run_id), holds=holds,
            )  # fmt: skip
        path.unlink()

    @contextmanager
    def held(self, accelerator: str, count: int) -> Iterator[tuple[int, ...]]:
        """Hold `count` devices, for nobody else to compute on: a slot for each, and the lease on the device itself.

        Yields the file descriptors of the leases, for the child that computes.
        """
        names = visible_devices(accelerator)[:count]
        with (
            gpu_slots(len(names)),
            leased(names, waiting=lambda why: log.warning("%s: %s", self.step, why), should_stop=stop_reason) as holds,
            watched(names, _idle_minutes(), self._say_idle),
        ):
            if names:
                log.info("%s: holds %s", self.step, ", ".join(names))
            yield holds

    def _say_idle(self, minutes: float) -> None:
        text = f"{self.step} of {self.run.name} has held its device for {minutes:.0f} minutes without computing on it"
        log.warning("%s", text)
        announce("device.idle", self.run.name, text, step=self.step, minutes=minutes)

    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Log flat parameters to this step's run."""
        if self.run_id:
            self.tracker.log_parameters(self.run_id, parameters)

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Log numbers to this step's run."""
        if self.run_id:
            self.tracker.log_metrics(self.run_id, [(0, values)])

    def system_metrics(self) -> AbstractContextManager[None]:
        """A context in which this step's run shows what the machine is doing."""
        return self.tracker.system_metrics(self.run_id) if self.run_id else nullcontext()

    def on_event(self, event: Event) -> None:
        """Turn a child's event into progress, log and metrics."""
        kind = event.get("kind")
        if kind == "progress":
            done, total, left = int(event["done"]), int(event["total"]), event.get("seconds_left")
            self.reporter.update(done, total, left)
            self._say_step(done, total, left)
        elif kind == "metrics":
            numbers = {key: float(value) for key, value in event.items() if key not in ("kind", "step")}
            self._points.append((int(event["step"]), numbers))
            if time.monotonic() - self._sent > 5:
                self.send_metrics()
        elif kind == "started":
            if event.get("resumed_from"):
                log.info("%s: goes on from its checkpoint at step %s", self.step, event["resumed_from"])
            self._say_step(int(event.get("resumed_from", 0)), int(event["total"]))
        elif kind == "note":
            log.info("%s: %s", self.step, event["text"])
        elif kind == "log":
            log.warning("%s: %s", self.step, event["text"])

    def _say_step(self, done: int, total: int, left: float | None = None) -> None:
        """Announce a step of training now and then: an automation notices where no more come, and the run's page shows it."""
        if self.step != "train" or time.monotonic() - self._said < _SAY_SECONDS:
            return
        self._said = time.monotonic()
        self._announce("step", f"step {done} of {total}", done=done, total=total)
        text = f"Training of {self._called}: step {done} of {total}"
        self._shown = show_progress(self._shown, done / total, text + (f", about {in_words(left)} left" if left else ""))

    def _announce(self, what: str, text: str, **payload: object) -> None:
        self._announced = announce(f"training.{what}", self._called, text, follows=self._announced, **payload)

    @property
    def _called(self) -> str:
        """The run, and the trial where it is one."""
        return f"{self.run.name}.{self.run.trial}" if self.run.trial else self.run.name

    def send_metrics(self) -> None:
        """Send the metrics gathered so far."""
        points, self._points, self._sent = self._points, [], time.monotonic()
        if points and self.run_id:
            self.tracker.log_metrics(self.run_id, points)

    def close(self) -> None:
        """Hand on what is left to say."""
        self.reporter.close()
        if self._said > 0:
            self._announce("ended", "training ended")
            if self._shown:
                show_progress(self._shown, 1.0, f"Training of {self._called}: ended")
        self.send_metrics()

    def on_line(self, line: str) -> None:
        """A line of a child's log: it belongs in the run's log, not on the screen."""
        log.debug("%s | %s", self.step, line)


def step(
    name: str, version: int, environment: Callable[[], object] = lambda: None, resumable: bool = False
) -> Callable[[Callable[Concatenate[StepContext, P], V]], Callable[Concatenate[RunContext, P], V]]:
    """Make a function a step.

    The function takes a StepContext and what it depends on, and returns a contract's value. The step takes a RunContext.
    Its cache key is the content of all other arguments, `version`, `environment()` and the lock file.

    Args:
        name: of the step, in the UI, in MLflow and in the cache; may hold fields of its arguments, as export-{exporter.kind}.
        version: raised by hand when the stage's results change.
        environment: facts outside the arguments that the result depends on.
        resumable: the step goes on with what it had written to its folder when it was killed.
    """

    def decorate(function: Callable[Concatenate[StepContext, P], V]) -> Callable[Concatenate[RunContext, P], V]:
        # A Prefect task shows "Cached" in the UI by returning that state; the caller gets the value all the same.
        @task(name=function.__name__, task_run_name="{label} {run.name}", cache_policy=NO_CACHE, persist_result=False)
        def run_step(label: str, run: RunContext, arguments: dict[str, object]) -> V | State[V]:
            outcome = perform(label, version, environment, function, run, arguments, resumable)
            if outcome.record.cached:
                return Completed(name="Cached", data=outcome.value, message=outcome.record.reason)
            return outcome.value

        @wraps(function)
        def call(run: RunContext, *args: P.args, **kwargs: P.kwargs) -> V:
            bound = signature(function).bind(None, *args, **kwargs)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            result: V | State[V] = run_step(name.format(**arguments), run, arguments)
            return result.result() if isinstance(result, State) else result

        return call  # type: ignore[return-value]  # the task adds a name to the first parameter

    return decorate


def perform(
    name: str,
    version: int,
    environment: Callable[[], object],
    function: Callable[Concatenate[StepContext, P], V],
    run: RunContext,
    arguments: dict[str, object],
    resumable: bool = False,
) -> Outcome[V]:
    """Run a step or take its cached value, and tell MLflow and the log which and why."""
    value_type: type[V] = get_type_hints(function)["return"]
    tracker, master = tracker_of(run), data_key(run)

    afterwards: list[Callable[[], None]] = []

    def compute(folder: Path, uri: str, key: str) -> V:
        vault.begin(folder)
        context = StepContext(run, name, folder, uri, key)
        context.afterwards = afterwards
        context.run_id = tracker.open(run.title(name), {"tuneflow.step": name, "tuneflow.key": key}) if run.run_id else ""
        log.info("%s: started", run.title(name))
        try:
            value = function(context, **arguments)  # type: ignore[call-arg, arg-type]
        except BaseException:
            context.close()
            if context.run_id:
                tracker.close(context.run_id, "FAILED")
            raise
        context.close()
        if context.run_id:
            tracker.log_text(context.run_id, value.model_dump_json(indent=1), "value.json")
            tracker.close(context.run_id)
        return value

    # What lies in clear, or under another key, is another entry of the cache.
    depends_on = {**arguments, "environment": environment(), "encryption": master.name if master else None}
    with vault.unlocked(master):
        outcome = run_cached(
            store_of(run), name, version, depends_on, value_type, compute, records=run.folder / "steps",
            waiting=lambda why: log.warning("%s: %s", name, why), resumable=resumable,
        )  # fmt: skip
    for call in afterwards:
        call()
    _tell(tracker, run, outcome)
    return outcome


def _tell(tracker: Tracker, run: RunContext, outcome: Outcome[V]) -> None:
    record, title = outcome.record, run.title(outcome.record.step)
    if record.cached:
        log.info("%s: cached (%s)", title, record.reason)
    else:
        log.info("%s: done in %.1f s (ran because: %s)", title, record.seconds, record.reason)
    if not run.run_id:
        return
    if record.cached:
        run_id = tracker.open(title, {"tuneflow.step": record.step, "tuneflow.key": record.key, "tuneflow.cached": "true"})
        tracker.close(run_id)
    tracker.tag(run.run_id, {f"tuneflow.cached.{title}": str(record.cached).lower()})
    tracker.log_metrics(run.run_id, [(0, {f"{title}.seconds": record.seconds})])


def let_the_story_through() -> None:
    """Let every line of the story into the run's log: under a worker nothing else does."""
    if log.level == logging.NOTSET:
        log.setLevel(logging.DEBUG)


@lru_cache(maxsize=8)
def store_of(run: RunContext) -> Store:
    """The store of a run: its block's, or the workspace itself."""
    scratch = Path(run.workspace) / "cache" / ".scratch"
    if not run.store:
        return Store(run.workspace, scratch)
    block = _load(ArtifactStore, run.store, "store")
    return Store(block.root, scratch, block.options())


@lru_cache(maxsize=8)
def tracker_of(run: RunContext) -> Tracker:
    """The tracker of a run: its block's server, or a database in the workspace.

    Raises:
        ServiceError: the block is not there, or a local database cannot be opened.
    """
    if run.tracking:
        block = _load(MlflowTracking, run.tracking, "tracking")
    else:
        folder = Path(run.workspace)
        block = MlflowTracking(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "mlflow"))
    try:
        client = block.client()
    except Exception as error:
        raise ServiceError(f"The tracking server {without_login(block.tracking_uri)} cannot be used: {error}.") from error
    return Tracker(client, run.name, block.artifact_root, run.run_id)


def hub_token(run: RunContext) -> str | None:
    """The hub's token, where a block holds one."""
    if not run.hub:
        return None
    return _load(ModelHub, run.hub, "base_model.hub").token.get_secret_value()


def source_options(access: str) -> dict[str, dict[str, Any]]:
    """How fsspec opens data sources, by protocol, from the data access block of that name; nothing where there is none."""
    return _load(DataAccess, access, "data.access").options() if access else {}


def data_key(run: RunContext) -> MasterKey | None:
    """The key under which the run's data are encrypted; None where they are not. It is asked for anew each time.

    Raises:
        ServiceError: the block is not there, or holds no key.
    """
    if not run.encryption:
        return None
    try:
        return MasterKey(_load(DataKey, run.encryption, "data.encryption").material())
    except ValueError as error:
        raise ServiceError(
            f"data.encryption names the block {run.encryption!r}, but {error}. Nothing was written. Put what "
            f"`openssl rand -base64 32` prints into it; if it had another key before, that one alone opens what it encrypted."
        ) from error


def _load(kind: type[B], name: str, field: str) -> B:
    """A saved block.

    Raises:
        ServiceError: Prefect has none of that name and kind.
    """
    try:
        block = kind.load(name)
    except ValueError as error:
        raise ServiceError(
            f"{field} names the block {name!r}, but Prefect has no {kind._block_type_name} block of that name. Make one in "
            f"the UI under Blocks, or leave {field} empty for the default."
        ) from error
    assert isinstance(block, kind)
    return block


def _idle_minutes() -> float:
    return float(os.environ.get("TUNEFLOW_IDLE_MINUTES", "15"))
