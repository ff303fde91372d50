"""The command line and the environment of each service."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.environment import FOLDERS, PREFECT, QUIET, ROOT
from tasks.process import python_module
from tasks.services.database import Database
from tasks.services.devices import Group
from tasks.services.spec import DATABASE_VARIABLE, PASSWORD_VARIABLE, ServicesSpec, is_loopback
from tasks.services.state import MARK, Role, services_folder

LOCAL_ONLY = "TUNEFLOW_LOCAL_ONLY"
_CLIENT_PASSWORD = "PREFECT_API_AUTH_STRING"  # noqa: S105 - its name
# What the caller's shell says about other servers, and secrets that only the server may see.
_HIDDEN = {
    "PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_PASSWORD", "PREFECT_SERVER_DATABASE_PASSWORD",
    DATABASE_VARIABLE, PASSWORD_VARIABLE, _CLIENT_PASSWORD, "MLFLOW_TRACKING_URI",
}  # fmt: skip
_QUIET = {
    **QUIET,
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
_CLIENT = {
    **PREFECT,
    "PREFECT_CLIENT_MAX_RETRIES": "10",  # a server that restarts is waited for
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}
_SERVER = {
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    # In files, so that slots of a concurrency limit stay taken while the server restarts.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_UI_API_URL": "/api",  # relative: the pages work under each name and behind each proxy
}
_LOOPBACK = "127.0.0.1,localhost,::1"


@dataclass(frozen=True)
class Program:
    """One service, ready to be started."""

    name: str
    role: Role
    command: tuple[str, ...]
    environment: dict[str, str]
    url: str = ""


@dataclass(frozen=True)
class Setting:
    """What all services share.

    Args:
        workspace: its absolute folder.
        spec: what was asked.
        groups: of the GPU workers.
        database: of the server.
        password: user:password of the server's API; "" for none.
        mark: what the processes are known by.
        inherited: the environment of the command.
    """

    workspace: Path
    spec: ServicesSpec
    groups: tuple[Group, ...]
    database: Database
    password: str
    mark: str
    inherited: Mapping[str, str]


def programs_of(setting: Setting) -> list[Program]:
    """Every service, in the order in which they start: server, MLflow, workers."""
    # The pool's own limit holds for cpu. A limit of the worker would end it where a run is resumed while it is being suspended.
    cpu = worker(setting, "cpu", "cpu", {"CUDA_VISIBLE_DEVICES": ""})
    gpus = [worker(setting, group.name, "gpu", group.environment, limit=1) for group in setting.groups]
    return [server(setting), mlflow(setting), cpu, *gpus]


def server(setting: Setting) -> Program:
    """Prefect's server inside our own application."""
    spec, home = setting.spec, _home(setting)
    default = f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    variables = {
        **{name: setting.inherited.get(name, value) for name, value in _SERVER.items()},
        "PREFECT_SERVER_API_HOST": spec.host,
        "PREFECT_SERVER_API_PORT": str(spec.port),
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        # By default Prefect lets the pages of every site call its API.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": setting.inherited.get("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", spec.ui_url),
        DATABASE_VARIABLE: setting.database.url or default,
        LOCAL_ONLY: "" if setting.password or not is_loopback(spec.host) else "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if setting.password:
        variables |= {PASSWORD_VARIABLE: setting.password, _CLIENT_PASSWORD: setting.password}
    command = python_module("flows.serving")
    return Program("server", "server", tuple(command), {**shared_environment(setting), **variables}, spec.api_url)


def mlflow(setting: Setting) -> Program:
    """MLflow on the workspace's own records, read where runs write them."""
    folder, port = setting.workspace, setting.spec.mlflow_port
    command = python_module(
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", str(folder / "mlflow"),
        "--no-serve-artifacts", "--uvicorn-opts", "--log-level warning",
    )  # fmt: skip
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "CUDA_VISIBLE_DEVICES": ""}
    return Program("mlflow", "mlflow", tuple(command), {**shared_environment(setting), **variables}, setting.spec.mlflow_url)


def worker(setting: Setting, name: str, pool: str, devices: Mapping[str, str], limit: int = 0) -> Program:
    """A worker of a pool, which sees these devices alone; `limit` is how many runs it does at a time, 0: as the pool says."""
    command = python_module(
        "prefect", "--no-prompt", "worker", "start", "--name", name, "--pool", pool, "--type", "process",
        *(("--limit", str(limit)) if limit else ()), "--install-policy", "never", "--no-create-pool-if-not-found",
    )  # fmt: skip
    return Program(name, "worker", tuple(command), {**client_environment(setting), **devices})


def setup_command(setting: Setting) -> list[str]:
    """What makes pools, limits, blocks, automations and deployments on the server."""
    command = python_module(
        "flows.cli", "setup", "--workspace", str(setting.workspace), "--cpu-runs", str(setting.spec.cpu_runs),
        "--gpu-runs", str(len(setting.groups)), "--gpu-devices", str(sum(group.size for group in setting.groups)),
    )  # fmt: skip
    return [*command, "--notify", setting.spec.notify] if setting.spec.notify else command


def client_environment(setting: Setting) -> dict[str, str]:
    """Of workers, runs and `setup`: where the server is and how it is spoken to."""
    variables = {name: setting.inherited.get(name, value) for name, value in _CLIENT.items()}
    password = {_CLIENT_PASSWORD: setting.password} if setting.password else {}
    return {**shared_environment(setting), **variables, "PREFECT_API_URL": setting.spec.api_url, **password}


def shared_environment(setting: Setting) -> dict[str, str]:
    """Of each service: the caller's own, but for secrets and other servers, and nothing outside the workspace."""
    kept = {name: value for name, value in setting.inherited.items() if name not in _HIDDEN}
    caches = {name: str(setting.workspace / "cache" / folder) for name, folder in FOLDERS.items()}
    paths = _joined(":", str(ROOT), kept.get("PYTHONPATH", ""))
    direct = _joined(",", kept.get("NO_PROXY", kept.get("no_proxy", "")), _LOOPBACK)
    return {
        **_QUIET, **caches, **kept, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "NO_PROXY": direct, "no_proxy": direct,
        "PREFECT_HOME": str(_home(setting)), "TUNEFLOW_WORKSPACE": str(setting.workspace), MARK: setting.mark,
    }  # fmt: skip


def log_file(workspace: Path, name: str) -> Path:
    """Where a service writes what it says."""
    return services_folder(workspace) / f"{name}.log"


def _home(setting: Setting) -> Path:
    return setting.workspace / "server"


def _joined(sign: str, *parts: str) -> str:
    return sign.join(filter(None, parts))
