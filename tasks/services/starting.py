"""`tuneflow up`: check, start what is missing, wait until all of it works; or leave nothing behind."""

import errno
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from filelock import FileLock, Timeout

from tasks.environment import ROOT
from tasks.errors import InputError, ServiceError, StageError
from tasks.services.api import Api, wait_until_answering, wait_until_online
from tasks.services.daemons import demand_life, end, start, tail
from tasks.services.database import Database, check_database, database_of
from tasks.services.devices import devices_here, groups_of
from tasks.services.programs import Program, Setting, client_environment, log_file, programs_of, setup_command
from tasks.services.spec import DATABASE_VARIABLE, PASSWORD_VARIABLE, ServicesSpec, check_host, check_load, settle
from tasks.services.state import (
    Daemon,
    Services,
    forget_services,
    private_file,
    read_services,
    services_folder,
    write_services,
)
from tasks.workspace import prepare_workspace

Tell = Callable[[str], None]
_INPUT_AT_FAULT = 2


@dataclass(frozen=True)
class Up:
    """What is up.

    Args:
        services: every service, recorded in services.json.
        spec: how they were started.
        started: names of those that this command started.
    """

    services: Services
    spec: ServicesSpec
    started: tuple[str, ...]


def start_services(
    workspace: Path, asked: Mapping[str, Any], database: str, inherited: Mapping[str, str], tell: Tell = lambda _: None
) -> Up:
    """Start what does not run yet.

    Args:
        workspace: its absolute folder.
        asked: the options of ServicesSpec that were given.
        database: address of the server's database; "": the one of the environment, else SQLite.
        inherited: the environment of the command.
        tell: gets a sentence about each step.

    Raises:
        InputError: an option, a port, the database or the environment is at fault; nothing was started.
        StageError: a service did not start; all that this command started has ended again.
    """
    prepare_workspace(workspace)
    with only_one(workspace):
        before = read_services(workspace)
        setting, record = _settle(workspace, asked, database, inherited, before)
        missing = [each for each in programs_of(setting) if record.daemon(each.name) is None]
        if not missing:
            return Up(record, setting.spec, ())
        _check(setting, record, missing)
        return Up(_start(setting, record, missing, tell), setting.spec, tuple(each.name for each in missing))


@contextmanager
def only_one(workspace: Path) -> Iterator[None]:
    """Hold the lock of `up` and `down`.

    Raises:
        InputError: another command of these is at work.
    """
    folder = services_folder(workspace)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"Another tuneflow up or down is at work in {workspace}. Wait until it has ended.") from error
    try:
        yield
    finally:
        lock.release()


def _settle(
    workspace: Path, asked: Mapping[str, Any], database: str, inherited: Mapping[str, str], before: Services | None
) -> tuple[Setting, Services]:
    """What is to run, and what is recorded of it already."""
    running = before.running() if before else []
    old = before if running else None
    spec = settle(asked, old.options if old else None)
    groups = groups_of(spec.gpu_groups, devices_here())
    spec = replace(spec, gpu_groups=tuple(",".join(group.devices) or "cpu" for group in groups))
    password = inherited.get(PASSWORD_VARIABLE, "")
    place = database_of(database or inherited.get(DATABASE_VARIABLE, ""), workspace)
    if old:
        _same(old, place, bool(database or inherited.get(DATABASE_VARIABLE)), password)
    # Runs whose services died are still known by the old mark.
    mark = before.mark if before else uuid4().hex
    setting = Setting(workspace, spec, tuple(groups), place, password, mark, inherited)
    shown, asks = (old.database, old.password) if old else (place.shown, bool(password))
    return setting, Services(mark, spec.as_options(), shown, asks, tuple(running))


def _same(old: Services, database: Database, given: bool, password: str) -> None:
    if given and database.shown != old.database:
        raise InputError(
            f"The database is {database.shown}, but what is up uses {old.database}. End that first: tuneflow down."
        )
    if password and not old.password:
        raise InputError(
            f"{PASSWORD_VARIABLE} is set, but the server that is up has no password. End that first: tuneflow down."
        )


def _check(setting: Setting, record: Services, missing: Sequence[Program]) -> None:
    """Everything that can be known before something starts."""
    spec = setting.spec
    if record.password and not setting.password:
        raise InputError(f"The services of {setting.workspace} have a password. Set {PASSWORD_VARIABLE} to it again.")
    if record.database != setting.database.shown:
        raise InputError(f"The services of {setting.workspace} use {record.database}. Set {DATABASE_VARIABLE} to it again.")
    check_host(spec.host, setting.password)
    check_load(spec, len(setting.groups), setting.database.sqlite)
    roles = {each.role for each in missing}
    if "server" in roles:
        _demand_port(spec.host, spec.port, "--port")
        check_database(setting.database)
    if "mlflow" in roles:
        _demand_port("127.0.0.1", spec.mlflow_port, "--mlflow-port")


def _demand_port(host: str, port: int, option: str) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except socket.gaierror as error:
        raise InputError(f"--host {host} is not an address of this machine: {error.strerror}.") from error
    except PermissionError as error:
        raise InputError(f"Port {port} cannot be opened: {error.strerror}. Choose one above 1023 with {option}.") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise InputError(f"--host {host} is not an address of this machine.") from error
        raise InputError(f"Port {port} on {host} is taken{_holder(port)}. Choose another with {option}.") from error


def _holder(port: int) -> str:
    """Who listens on a port, where that can be seen."""
    try:
        found = [
            each.pid for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN and each.laddr.port == port
        ]
        return f" by {psutil.Process(found[0]).name()} (process {found[0]})" if found and found[0] else ""
    except (psutil.Error, OSError):
        return ""


def _start(setting: Setting, record: Services, missing: Sequence[Program], tell: Tell) -> Services:
    started: list[str] = []
    # The mark is written first: whatever ends this command, `down` finds what it started.
    write_services(setting.workspace, record)

    def launch(program: Program) -> None:
        nonlocal record
        record = record.with_daemon(start(program, setting.workspace))
        started.append(program.name)
        write_services(setting.workspace, record)

    try:
        _bring_up(setting, lambda: record, missing, launch, tell)
    except BaseException:
        if started:
            tell("ending what was started")
            end(record, started)
        _forget(setting.workspace, record)
        raise
    return record


def _bring_up(
    setting: Setting, record: Callable[[], Services], missing: Sequence[Program], launch: Callable[[Program], None], tell: Tell
) -> None:
    def check(daemon: Daemon) -> None:
        demand_life(daemon, setting.mark)

    for program in missing:
        if program.role != "worker":
            tell(f"starting {program.name}")
            launch(program)
    spec = setting.spec
    addresses = {"server": f"{spec.api_url}/health", "mlflow": f"{spec.mlflow_url}/health"}
    wait_until_answering([(each, addresses[each.role]) for each in record().daemons if each.role in addresses], check)
    tell("setting up pools, limits, blocks and deployments")
    _set_up(setting)
    workers = [program for program in missing if program.role == "worker"]
    for program in workers:
        tell(f"starting the worker {program.name}")
        launch(program)
    names = {program.name for program in workers}
    pools = [(each, "cpu" if each.name == "cpu" else "gpu") for each in record().daemons if each.name in names]
    wait_until_online(Api(spec.api_url, setting.password), pools, check)


def _set_up(setting: Setting) -> None:
    log = log_file(setting.workspace, "setup")
    with private_file(log) as file:
        done = subprocess.run(
            setup_command(setting), cwd=ROOT, env=client_environment(setting), stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if done.returncode:
        kind = ServiceError if done.returncode == _INPUT_AT_FAULT else StageError
        raise kind(f"tuneflow setup ended with status {done.returncode}. What it said, from {log}:\n{_reason(log)}")


def _reason(log: Path) -> str:
    """The error in the output of a command of ours, else the end of it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith(("Error: ", "Failed: "))]
    return "\n".join(f"  | {line}" for line in lines[errors[0] :][:20]) if errors else tail(log, 30)


def _forget(workspace: Path, record: Services) -> None:
    """Write down what is left after a start that failed."""
    left = record.running()
    if left:
        write_services(workspace, replace(record, daemons=tuple(left)))
    else:
        forget_services(workspace)
