"""The same jobs on several machines: a Dask cluster whose workers see the same files takes the place of local processes.

Facts go over the network, rows do not: shards are read and written where they lie.
"""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.data.manifest import versions
from tasks.data.running import Run, several
from tasks.encryption import vault
from tasks.errors import RequestError, ServiceError, StageError

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

VARIABLE = "TUNEFLOW_DASK"
_PATIENCE = 30  # seconds in which a scheduler answers
_LOOK = 10.0  # seconds between two looks at whether the workers are still there
A = TypeVar("A")
B = TypeVar("B")


@contextmanager
def workers(processes: int, folder: Path) -> Iterator[Run]:
    """The cluster that TUNEFLOW_DASK names, else so many processes of this machine.

    Args:
        processes: that share the work where there is no cluster.
        folder: that jobs write to.

    Raises:
        RequestError: a cluster is named that cannot be used for this.
        ServiceError: it does not answer, or its workers are not as they must be.
        StageError: a process or worker was killed.
    """
    address = os.environ.get(VARIABLE, "")
    if address:
        with on_dask(address, folder) as run:
            yield run
    else:
        with several(processes) as run:
            yield run


@contextmanager
def on_dask(address: str, folder: Path) -> Iterator[Run]:
    """The workers of a Dask cluster; arguments and errors are those of `workers`."""
    if vault.held():
        raise RequestError(
            f"{VARIABLE} is {address}, and the data are encrypted: their key does not leave this machine. Unset {VARIABLE}, or "
            f"prepare them without encryption."
        )
    client = _client(address)
    try:
        chosen = _checked(client, address, folder)

        def run(function: Callable[[A], B], jobs: Sequence[A]) -> Iterator[B]:
            # Not allowed elsewhere: a worker that comes later was not looked at.
            futures = client.map(function, jobs, workers=chosen, allow_other_workers=False, pure=False)
            try:
                for future in futures:
                    yield _result(client, future, chosen)
            finally:
                client.cancel(futures)

        yield run
    finally:
        client.close()


def _client(address: str) -> "Client":
    try:
        from prefect_dask.client import PrefectDaskClient
    except ImportError as error:
        raise RequestError(
            f'{VARIABLE} is {address}, but Dask is not installed. Install it on every machine: pip install "tuneflow[dask]".'
        ) from error
    try:
        return PrefectDaskClient(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ServiceError(
            f"{VARIABLE}: no Dask scheduler answers at {address}: {error}. Give the address that `dask scheduler` printed, "
            f"such as tcp://10.0.0.1:8786."
        ) from error


def _checked(client: "Client", address: str, folder: Path) -> list[str]:
    """The addresses of all workers, each of which sees the folder and would make the same bytes.

    Raises:
        ServiceError: there is none, or one of them would not; all that is wrong at once.
    """
    threads: Mapping[str, int] = client.nthreads()
    if not threads:
        raise ServiceError(f"The Dask scheduler at {address} has no workers. Start some: dask worker {address} --nthreads 1.")
    folder.mkdir(parents=True, exist_ok=True)
    probe, word = folder / f".probe-{secrets.token_hex(8)}", secrets.token_hex(16)
    probe.write_text(word, encoding="utf-8")
    try:
        said = client.run(_look, str(probe), on_error="return")
        replies = {worker: _read(reply_of(probe, worker)) for worker in said}
    finally:
        for path in folder.glob(f"{probe.name}*"):
            path.unlink(missing_ok=True)
    here, problems = facts(), list[str]()
    for worker, there in said.items():
        if threads.get(worker) != 1:
            problems.append(f"{worker} has {threads.get(worker)} threads; start it with --nthreads 1 and more --nworkers")
        if isinstance(there, BaseException):
            problems.append(f"{worker} cannot run tuneflow: {there!r}; install it there as it is here")
            continue
        if not there.pop("word") == replies[worker] == word:
            problems.append(f"{worker} does not read and write the files in {folder}; mount the same file system there")
        problems += [
            f"{worker} has {name} {there[name]} instead of {wanted}" for name, wanted in here.items() if there[name] != wanted
        ]
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise ServiceError(f"The workers of the Dask cluster at {address} cannot share this work:\n{listed}")
    return list(said)


def _look(probe: str, dask_worker: "Worker") -> dict[str, str]:
    """On a worker: what it finds in the file, written beside it too, and what decides the bytes that it makes.

    Dask gives the worker to an argument of that name.
    """
    for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    word = _read(Path(probe))
    if word:
        reply_of(Path(probe), dask_worker.address).write_text(word, encoding="utf-8")
    return {"word": word, **facts()}


def reply_of(probe: Path, worker: str) -> Path:
    """The file in which a worker repeats what it has read."""
    return probe.with_name(f"{probe.name}-{hashlib.sha256(worker.encode()).hexdigest()[:16]}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def facts() -> dict[str, str]:
    """What must be the same on all machines, for the same bytes to come out."""
    code, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        code.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return {"tuneflow's code": code.hexdigest()[:12], **versions()}


def _result(client: "Client", future: "Future", chosen: Sequence[str]) -> Any:
    """What a job returned, once it is done.

    Raises:
        StageError: the workers are gone, or died over this job.
    """
    from distributed import KilledWorker

    while True:
        try:
            return future.result(timeout=_LOOK)
        except TimeoutError:
            if future.done():  # the job's own
                raise
            if not set(chosen) & set(client.nthreads()):
                raise StageError(
                    f"All {len(chosen)} workers of the Dask cluster are gone. Start them and then the run again: it goes on "
                    f"after the last whole shard."
                ) from None
        except KilledWorker as error:
            raise StageError(
                f"Workers of the Dask cluster died over one shard, most often for want of memory: {error}. Give them more "
                f"memory, and start the run again: it goes on after the last whole shard."
            ) from error
