"""The embedded Prefect server of one command: on loopback, in the workspace, gone when the command ends however it ends."""

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.environment import EMBEDDED
from tasks.errors import ServiceError, StageError
from tasks.process import companion
from tasks.services.state import answers, running_api

_PATIENCE = 120.0  # seconds; a first start makes the database
_VARIABLE = "PREFECT_API_URL"


@contextmanager
def prefect_api(workspace: Path) -> Iterator[Callable[[], str]]:
    """Settle which Prefect API this process uses; yields what brings it up and says where it is.

    Prefect reads its address when it is imported, so that it is settled before. It is the one of PREFECT_API_URL, or that of
    the server which `tuneflow up` started in this workspace. Else it is an embedded one, in a session of its own: Ctrl-C ends
    the flow, which can then still say how it ended.
    """
    if given := os.environ.get(_VARIABLE):
        yield lambda: _given(given)
        return
    found = running_api(workspace)
    os.environ[_VARIABLE] = found or f"http://127.0.0.1:{_free_port()}/api"
    try:
        if found:
            yield lambda: f"the server of `tuneflow up` at {found}"
        else:
            os.environ[EMBEDDED] = "1"
            os.environ.pop("PREFECT_SERVER_API_AUTH_STRING", None)  # of another server; this one is for this command alone
            yield _starter(workspace)
    finally:
        del os.environ[_VARIABLE]
        os.environ.pop(EMBEDDED, None)


@contextmanager
def signs_of_life() -> Iterator[None]:
    """Flows send them, but not to an embedded server: nobody waits for them there, and each flow would for its last one."""
    if not os.environ.get(EMBEDDED):
        yield
        return
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _given(address: str) -> str:
    """What is said of a server that the environment names.

    Raises:
        ServiceError: it does not answer, or not to this log-in.
    """
    if not answers(f"{address}/health"):
        raise ServiceError(
            f"The Prefect server of PREFECT_API_URL, {address}, does not answer. Start it with `tuneflow up`, or unset the "
            f"variable for a server of this command's own."
        )
    if not answers(f"{address}/admin/version", login=os.environ.get("PREFECT_API_AUTH_STRING", "")):
        raise ServiceError(
            f"The Prefect server at {address} refuses this log-in. Set PREFECT_API_AUTH_STRING to its user:password."
        )
    return f"the server at {address}"


def _starter(workspace: Path) -> Callable[[], str]:
    """Brings up the embedded server when it is called first; it ends when the process does."""
    stack = ExitStack()
    # Not when the context ends: Prefect hands on its last logs and states while the interpreter shuts down, before this.
    atexit.register(stack.close)
    running: list[str] = []

    def start() -> str:
        if not running:
            stack.enter_context(_server(workspace, os.environ[_VARIABLE]))
            running.append("an embedded server of this command's own")
        return running[0]

    return start


@contextmanager
def _server(workspace: Path, address: str) -> Iterator[None]:
    folder = workspace / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    port = address.rsplit(":", 1)[1].partition("/")[0]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-services"]
    with _own_database(folder) as database:
        variables = {
            "PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
            # Whatever the environment says of a server's database is meant for that server, not for this one.
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        }  # fmt: skip
        log = folder / "server.log"
        with companion(command, environment=variables, log=log, grace_seconds=10) as alive:
            deadline = time.monotonic() + _PATIENCE
            while not answers(f"{address}/health"):
                if time.monotonic() > deadline or not alive():
                    raise StageError(f"The embedded Prefect server did not start. What it said is in {log}.")
                time.sleep(0.1)
            yield


@contextmanager
def _own_database(folder: Path) -> Iterator[Path]:
    """A database that no other server uses: the second of two commands at once gets the second one."""
    for number in count(1):
        lock = FileLock(folder / f".database-{number}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        try:
            yield folder / ("prefect.db" if number == 1 else f"prefect-{number}.db")
        finally:
            lock.release()
        return


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
