"""Shard by shard, in one process or in several, and nothing twice: what was done before a kill is taken as it is."""

import ctypes
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from tasks.encryption import vault
from tasks.encryption.keys import MasterKey
from tasks.errors import RequestError, StageError
from tasks.shim import die_with_parent
from tasks.storage import sha256_file

Facts = dict[str, Any]
Told = Callable[[int, int], None]
_VARIABLE = "TUNEFLOW_PROCESSES"
_WORTH_A_PROCESS = 20_000  # rows; a process takes some seconds to start
A = TypeVar("A")
B = TypeVar("B")


class Run(Protocol):
    """Maps a module's function over jobs; results come in the order of the jobs, whoever does them."""

    def __call__(self, function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
        """The result of each job."""
        ...


class Job(Protocol):
    """What is done with one shard: a name of its own, and the files that it writes."""

    @property
    def name(self) -> str:
        """Unlike that of every other job."""
        ...

    @property
    def outputs(self) -> Sequence[Path]:
        """Where it writes to; asked once it is done."""
        ...


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class After(Generic[J]):
    """A job that goes on with what another one, `of`, wrote of the same shard, under the same name."""

    of: J

    @property
    def name(self) -> str:
        """The shard's."""
        return self.of.name


def silent(_done: int, _total: int) -> None:
    """Progress that nobody asked for."""


def in_turn(function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
    """One job after the other, in this process."""
    return map(function, jobs)


def processes_for(jobs: int, rows: int) -> int:
    """How many processes share so many jobs: one a core, or TUNEFLOW_PROCESSES; for few rows none is worth its start.

    Raises:
        RequestError: the variable is no number.
    """
    asked = os.environ.get(_VARIABLE, "").strip() or "0"
    if not asked.isdecimal():
        raise RequestError(f"{_VARIABLE} is {asked!r}; expected how many processes prepare data, or 0 for one a core.")
    wanted = int(asked) or min(len(os.sched_getaffinity(0)), rows // _WORTH_A_PROCESS)
    return max(1, min(wanted, jobs))


@contextmanager
def several(processes: int) -> Iterator[Run]:
    """So many processes, which end with this one.

    Raises:
        StageError: one of them was killed.
    """
    if processes <= 1:
        yield in_turn
        return
    with _shared or _Pool() as shared:
        pool, unfinished = shared.of(processes, vault.held()), set[Future[Any]]()

        def run(function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
            futures = [pool.submit(function, job) for job in jobs]
            unfinished.update(futures)
            for future in futures:
                future.add_done_callback(unfinished.discard)
            return (future.result() for future in futures)

        try:
            yield run
        except BrokenProcessPool as error:
            shared.end()
            raise StageError(
                "A process that worked on a shard was killed, most often by the system for want of memory. Start the run "
                f"again: it goes on after the last whole shard. With {_VARIABLE}=1 it needs the least memory."
            ) from error
        finally:
            # Processes that are kept would go on with a step that has ended.
            wait([future for future in set(unfinished) if not future.cancel()])


@contextmanager
def processes_kept() -> Iterator[None]:
    """Within this, `several` gives the same processes each time: what they have loaded serves the next step too."""
    global _shared  # noqa: PLW0603
    before, _shared = _shared, _Pool(keep=True)
    try:
        yield
    finally:
        _shared.end()
        _shared = before


class _Pool:
    """Processes, started when they are first asked for."""

    def __init__(self, keep: bool = False) -> None:
        self.keep, self.size, self.key = keep, 0, cast("MasterKey | None", None)
        self.pool: ProcessPoolExecutor | None = None

    def of(self, processes: int, key: MasterKey | None) -> ProcessPoolExecutor:
        """At least so many, which hold this key alone."""
        if self.pool is None or self.size < processes or self.key != key:
            self.end()
            spawn = multiprocessing.get_context("spawn")  # a fork would share locks of libraries that run threads
            told = (os.getpid(), key)  # through a pipe
            self.pool, self.size, self.key = (
                ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=told), processes, key
            )  # fmt: skip
        return self.pool

    def end(self) -> None:
        """End them, once what they are at is done."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
        self.pool, self.key = None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            self.end()


_shared: _Pool | None = None


def _begin(parent: int, key: MasterKey | None) -> None:
    """In each process before its first job: end with the parent, hold its key, and leave the other cores to the others."""
    die_with_parent(parent)
    vault.hold(key)
    for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def each(run: Run, function: Callable[[J], Facts], jobs: Sequence[J], marks: Path, progress: Told = silent) -> list[Facts]:
    """What `function` says of each job, in their order. What has a mark whose files are still whole is not done again.

    Args:
        run: in one process or in several.
        function: of a module; writes the job's outputs and returns what JSON can hold.
        jobs: with names that differ.
        marks: folder for one mark a job.
        progress: told the jobs done and all of them.
    """
    _give_back()
    found = {job.name: _marked(marks, job) for job in jobs}
    todo = [_Todo(function, job, marks) for job in jobs if found[job.name] is None]
    done = len(jobs) - len(todo)
    progress(done, len(jobs))
    for job, facts in zip(todo, run(_work, todo), strict=True):
        found[job.job.name] = facts
        done += 1
        progress(done, len(jobs))
    return [facts for facts in found.values() if facts is not None]


@dataclass(frozen=True)
class _Todo:
    function: Callable[[Any], Facts]
    job: Any
    marks: Path


def _work(todo: _Todo) -> Facts:
    facts = todo.function(todo.job)
    files = [[str(path), path.stat().st_size, sha256_file(path)] for path in todo.job.outputs]
    # Facts may hold words of rows, such as the labels that were counted.
    vault.write(_mark(todo.marks, todo.job), json.dumps({"facts": facts, "files": files}).encode())
    _give_back()
    return facts


def _give_back() -> None:
    """Give memory that nothing uses back to the system; glibc and pyarrow keep it otherwise, the more the longer they work."""
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _marked(marks: Path, job: Job) -> Facts | None:
    """What an earlier process found, where all that it wrote is still there."""
    try:
        record = json.loads(vault.read_text(_mark(marks, job)))
        whole = all(Path(path).stat().st_size == size and sha256_file(Path(path)) == sha for path, size, sha in record["files"])
        return dict(record["facts"]) if whole else None
    except (OSError, ValueError, KeyError):
        return None


def _mark(marks: Path, job: Job) -> Path:
    return marks / f"{job.name}.json"
