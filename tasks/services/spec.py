"""What `tuneflow up` is asked for, with defaults, and what is refused before anything starts."""

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tasks.errors import InputError

DATABASE_VARIABLE = "PREFECT_API_DATABASE_CONNECTION_URL"
PASSWORD_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"  # noqa: S105 - its name
# Measured: with more runs at a time a SQLite server answers 503 and runs are lost.
SQLITE_RUNS = 10
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class ServicesSpec:
    """What to start.

    Args:
        host: address on which the Prefect server listens.
        port: of the Prefect server.
        mlflow_port: of the MLflow UI, which listens on loopback alone.
        cpu_runs: runs at a time on the work pool `cpu`.
        gpu_groups: devices of each GPU worker, "0,1"; "cpu" is a stand-in. Empty: what the machine has.
        notify: name of the block that gets notices; "" for none.
    """

    host: str = "127.0.0.1"
    port: int = 4200
    mlflow_port: int = 5000
    cpu_runs: int = 4
    gpu_groups: tuple[str, ...] = ()
    notify: str = ""

    def __post_init__(self) -> None:
        for option, port in (("--port", self.port), ("--mlflow-port", self.mlflow_port)):
            if not 0 < port <= _HIGHEST_PORT:
                raise InputError(f"{option} is {port}, expected 1 to {_HIGHEST_PORT}.")
        if self.port == self.mlflow_port:
            raise InputError(f"--port and --mlflow-port are both {self.port}. Give each service a port of its own.")
        if self.cpu_runs < 1:
            raise InputError(f"--cpu-runs is {self.cpu_runs}, expected at least 1: a run waits on the pool cpu for its trials.")

    @property
    def own_host(self) -> str:
        """The address at which this machine itself reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"[{host}]" if ":" in host else host

    @property
    def api_url(self) -> str:
        """The server's API, for clients on this machine."""
        return f"http://{self.own_host}:{self.port}/api"

    @property
    def ui_url(self) -> str:
        """Prefect's UI."""
        return f"http://{self.own_host}:{self.port}"

    @property
    def mlflow_url(self) -> str:
        """MLflow's UI."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    def as_options(self) -> dict[str, Any]:
        """For services.json."""
        return {**asdict(self), "gpu_groups": list(self.gpu_groups)}


def settle(asked: Mapping[str, Any], before: Mapping[str, Any] | None) -> ServicesSpec:
    """What was asked, else what runs already, else the defaults.

    Args:
        asked: options by name; None for one that was not given.
        before: the options of services that still run.

    Raises:
        InputError: an option is out of range, or differs from what runs.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if "gpu_groups" in given:
        given["gpu_groups"] = tuple(given["gpu_groups"])
    if before is None:
        return ServicesSpec(**given)
    known = {each.name for each in fields(ServicesSpec)}
    old = ServicesSpec(**{**{k: v for k, v in before.items() if k in known}, "gpu_groups": tuple(before["gpu_groups"])})
    for name, value in given.items():
        if value != getattr(old, name):
            option = "--" + {"gpu_groups": "gpu_group"}.get(name, name).replace("_", "-")
            raise InputError(
                f"{option} is {_plain(value)}, but what is up was started with {_plain(getattr(old, name))}. "
                f"End that first: tuneflow down."
            )
    return old


def check_host(host: str, password: str) -> None:
    """Demand a password where others can reach the server.

    Raises:
        InputError: there is none, or it has not the form user:password.
    """
    user, _, secret = password.partition(":")
    if password and not (user and secret):
        raise InputError(f"{PASSWORD_VARIABLE} is not of the form user:password.")
    if not password and not is_loopback(host):
        raise InputError(
            f"--host {host} lets other machines reach the Prefect server, and whoever reaches it can start runs and read the "
            f"secrets of blocks. Set a password first: export {PASSWORD_VARIABLE}=user:password. Without --host the server "
            f"listens on 127.0.0.1 alone."
        )


def check_load(spec: ServicesSpec, groups: int, sqlite: bool) -> None:
    """Refuse more runs at a time than the database bears.

    Raises:
        InputError: on SQLite, with what to give instead.
    """
    runs = spec.cpu_runs + groups
    if sqlite and runs > SQLITE_RUNS:
        raise InputError(
            f"{spec.cpu_runs} runs on cpu and {groups} on gpu are {runs} at a time, and a SQLite server holds about "
            f"{SQLITE_RUNS}: beyond that runs are lost. Lower --cpu-runs, or use PostgreSQL: "
            f"export {DATABASE_VARIABLE}=postgresql+asyncpg://user:password@host:5432/database."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _plain(value: object) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
