"""Servers that tests start for real, on loopback and in a folder of their own: Prefect's, PostgreSQL."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from tasks.process import companion

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def user_environment() -> dict[str, str]:
    """The user's environment, without what a test session has set for itself, and with the cores that they have."""
    hidden = ("PREFECT_", "TUNEFLOW_", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float, what: str = "") -> None:
    """Wait until `condition` holds; an AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what or condition}"
        time.sleep(0.1)


def healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def wait_until_healthy(address: str, alive: Callable[[], bool] = lambda: True) -> None:
    wait_for(lambda: healthy(address) or not alive(), 120, f"{address} answers")
    assert alive(), f"the server at {address} ended"


@contextmanager
def prefect_server(folder: Path, **variables: str) -> Iterator[dict[str, str]]:
    """A Prefect server with its files in `folder`; yields the environment of its clients."""
    port = free_port()
    environment = {
        **user_environment(), "PREFECT_HOME": str(folder), "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", **variables,
    }  # fmt: skip
    command = [str(BIN / "prefect"), "server", "start"]
    with companion(command, environment=environment, log=folder / "server.log", grace_seconds=10) as alive:
        wait_until_healthy(environment["PREFECT_API_URL"], alive)
        yield environment


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server of its own; yields the URL of an empty database for Prefect (postgresql+asyncpg://...)."""
    programs = postgres_programs()
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    data, user = folder / "data", None
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        shutil.chown(folder, user)
        for parent in folder.parents:
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    run = _runner(user)
    run([str(programs / "initdb"), "-D", str(data), "-U", "prefect", "--auth=trust", "--no-sync"])
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off -c max_connections=200"
    run([str(programs / "pg_ctl"), "-D", str(data), "-l", str(folder / "postgres.log"), "-w", "-o", options, "start"])
    try:
        run([str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect"])
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/prefect"
    finally:
        run([str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop"])


def postgres_programs() -> Path:
    """Where PostgreSQL's programs lie."""
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not found and (program := shutil.which("initdb")):
        found = [Path(program).parent]
    return found[-1] if found else missing("PostgreSQL", "postgresql")


def missing(what: str, package: str) -> NoReturn:
    """Skip a test for what is not installed; fail it where all tests must run (TUNEFLOW_TEST_ALL)."""
    reason = f"{what} is not installed: apt-get install {package}"
    if os.environ.get("TUNEFLOW_TEST_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


def _runner(user: str | None) -> Callable[[list[str]], None]:
    extra: Mapping[str, object] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}

    def run(command: list[str]) -> None:
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **extra)  # type: ignore[call-overload]
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    return run
