"""What `up` started: services.json and whether it still runs. Light, since every `tuneflow run` looks here."""

import base64
import json
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from tasks import process

MARK = "TUNEFLOW_SERVICE"
_VERSION = 1
_CLOCK = 2.0  # seconds by which a clock that was set may move a process's start
Role = Literal["server", "mlflow", "worker"]


@dataclass(frozen=True)
class Daemon:
    """One process that outlives the command that started it."""

    name: str
    role: Role
    pid: int
    created: float
    command: tuple[str, ...]
    log: str
    url: str = ""


@dataclass(frozen=True)
class Services:
    """What `up` started in a workspace. It holds no secret: neither the database's address nor a password.

    Args:
        mark: random text in the environment of every process below, as TUNEFLOW_SERVICE.
        options: what was asked, so that the next `up` starts what is missing in the same way.
        database: its kind and place, in words.
        password: whether the server asks for one.
        daemons: the processes, in the order in which they were started.
    """

    mark: str
    options: dict[str, Any]
    database: str
    password: bool
    daemons: tuple[Daemon, ...] = field(default_factory=tuple)

    def daemon(self, name: str) -> Daemon | None:
        """The daemon of a name that still runs."""
        return next((each for each in self.daemons if each.name == name and runs(each, self.mark)), None)

    def running(self) -> list[Daemon]:
        """The daemons that still run."""
        return [each for each in self.daemons if runs(each, self.mark)]

    def with_daemon(self, daemon: Daemon) -> "Services":
        """The same with one more daemon, in the place of an earlier one of its name."""
        others = tuple(each for each in self.daemons if each.name != daemon.name)
        return replace(self, daemons=(*others, daemon))


def services_folder(workspace: Path) -> Path:
    """Where services.json and the logs lie."""
    return workspace / "services"


def read_services(workspace: Path) -> Services | None:
    """What services.json says; None where there is none that can be read."""
    try:
        content = json.loads(_file(workspace).read_text(encoding="utf-8"))
        if content.pop("version") != _VERSION:
            return None
        daemons = tuple(Daemon(**{**each, "command": tuple(each["command"])}) for each in content.pop("daemons"))
        return Services(**content, daemons=daemons)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_services(workspace: Path, services: Services) -> None:
    """Write services.json for its owner alone, whole or not at all."""
    path = _file(workspace)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    with private_file(new) as file:
        file.write(json.dumps({"version": _VERSION, **asdict(services)}, indent=1).encode())
    new.replace(path)


def private_file(path: Path) -> IO[bytes]:
    """A new, empty file that its owner alone can read. What is written goes to its end, whoever else writes."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "ab")


def forget_services(workspace: Path) -> None:
    """Remove services.json."""
    _file(workspace).unlink(missing_ok=True)


def runs(daemon: Daemon, mark: str) -> bool:
    """Whether this very process still runs: its id, its start and its mark are the same."""
    try:
        found = psutil.Process(daemon.pid)
        if found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - daemon.created) > _CLOCK:
            return False
    except psutil.Error:
        return False
    return carries(daemon.pid, mark)


def carries(pid: int, mark: str) -> bool:
    """Whether a process has the mark in its environment."""
    return process.carries(pid, f"{MARK}={mark}")


def marked(mark: str) -> list[int]:
    """Every process that carries the mark, but this one."""
    return process.carrying(f"{MARK}={mark}")


def running_api(workspace: Path) -> str:
    """The API's address of the server that `up` started in this workspace, where it runs and answers; else ""."""
    services = read_services(workspace)
    server = services.daemon("server") if services else None
    return server.url if server and answers(f"{server.url}/health") else ""


def answers(address: str, seconds: float = 2.0, login: str = "") -> bool:
    """Whether a GET of an address ends well, with `login` (user:password). No proxy of the environment is asked."""
    request = urllib.request.Request(address)  # noqa: S310  (http by whoever configured it)
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _file(workspace: Path) -> Path:
    return services_folder(workspace) / "services.json"
