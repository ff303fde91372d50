"""The embedded Prefect server of one command: on loopback, in the workspace, gone when the command ends however it ends."""

import atexit
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.errors import StageError
from tasks.process import companion

_PATIENCE = 120.0  # seconds; a first start makes the database
_VARIABLE = "PREFECT_API_URL"


@contextmanager
def prefect_api(workspace: Path) -> Iterator[Callable[[], str]]:
    """Settle which Prefect API this process uses; yields what brings it up and says where it is.

    Prefect reads its address when it is imported, so that it is settled before. Where PREFECT_API_URL is set, that server is
    used. Else it is an embedded one, in a session of its own: Ctrl-C ends the flow, which can then still say how it ended.
    """
    if given := os.environ.get(_VARIABLE):
        yield lambda: f"the server at {given}"
        return
    port = _free_port()
    os.environ[_VARIABLE] = f"http://127.0.0.1:{port}/api"
    stack = ExitStack()
    # Not when the context ends: Prefect hands on its last logs and states while the interpreter shuts down, before this.
    atexit.register(stack.close)
    running: list[str] = []

    def start() -> str:
        if not running:
            stack.enter_context(_server(workspace, port))
            running.append("an embedded server of this command's own")
        return running[0]

    try:
        yield start
    finally:
        del os.environ[_VARIABLE]


@contextmanager
def _server(workspace: Path, port: int) -> Iterator[None]:
    log = workspace / "prefect" / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-services"]
    variables = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT_LOGGING_SERVER_LEVEL": "ERROR"}
    with companion(command, environment=variables, log=log, grace_seconds=10) as alive:
        deadline = time.monotonic() + _PATIENCE
        while not _answers(os.environ[_VARIABLE]):
            if time.monotonic() > deadline or not alive():
                raise StageError(f"The embedded Prefect server did not start. What it said is in {log}.")
            time.sleep(0.1)
        yield


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:  # noqa: S310  (loopback)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
