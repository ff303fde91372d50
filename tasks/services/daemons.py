"""Processes that outlive the command that starts them, and their end: these and no others."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.errors import StageError
from tasks.services.programs import Program, log_file
from tasks.services.state import Daemon, Services, carries, marked, private_file, runs, services_folder
from tasks.shim import descendants, signal_all

# Training writes a checkpoint when it is asked to end, and may take 30 seconds; then its run tells the server.
RUN_GRACE = 35.0
SERVICE_GRACE = 10.0
_RUN = b"PREFECT__FLOW_RUN_ID="
_TAIL = 15


@dataclass(frozen=True)
class Ended:
    """What `down` ended: services by name, and how many runs were under way."""

    services: tuple[str, ...]
    runs: int


def start(program: Program, workspace: Path) -> Daemon:
    """Start a service in a session of its own, so that neither a terminal nor this command ends it."""
    folder, log = services_folder(workspace), log_file(workspace, program.name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with private_file(log) as file:
        process = subprocess.Popen(
            program.command, cwd=folder, env=program.environment, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    created = psutil.Process(process.pid).create_time()
    return Daemon(program.name, program.role, process.pid, created, program.command, str(log), program.url)


def demand_life(daemon: Daemon, mark: str) -> None:
    """Check that a service that was started still runs.

    Raises:
        StageError: it ended; with the end of its log.
    """
    # A process that has only just been started has not yet its own environment.
    if not runs(daemon, mark) and not _starting(daemon):
        raise StageError(f"{daemon.name} ended while it started. What it said last, from {daemon.log}:\n{tail(daemon.log)}")


def tail(log: str | Path, lines: int = _TAIL) -> str:
    """The last lines of a log, indented."""
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"  | {line}" for line in found) or "  | nothing"


def end(services: Services, names: Iterable[str] = (), tell: Callable[[str], None] = lambda _: None) -> Ended:
    """End services and all that they started: runs and workers, then MLflow, then the server.

    Args:
        services: what `up` recorded.
        names: which of them; none means all, and then no process with the mark is left.
        tell: gets a sentence about what is waited for.
    """
    chosen = set(names)
    here = [each for each in services.running() if not chosen or each.name in chosen]
    workers = [each for each in here if each.role == "worker"]
    under_way = _runs(services.mark, None if not chosen else workers)
    if under_way:
        tell(f"{_count(len(set(under_way.values())))} under way: asked to end, with up to {RUN_GRACE:.0f} s for a checkpoint")
    _end_runs(under_way, workers, services.mark)
    for role in ("worker", "mlflow", "server"):
        _end_all([each for each in here if each.role == role], services.mark)
    if not chosen:
        _sweep(services.mark)
    return Ended(tuple(each.name for each in here), len(set(under_way.values())))


def _end_runs(under_way: dict[int, str], workers: list[Daemon], mark: str) -> None:
    """Ask the runs to end, as a cancellation does, and wait. Their workers sleep meanwhile, so that none takes up another."""
    if not under_way:
        return
    signal_all([worker.pid for worker in workers], signal.SIGSTOP)
    try:
        for pid in _roots(under_way):
            _signal_group(pid, signal.SIGTERM)
        _wait(lambda: not _still(under_way, mark), RUN_GRACE)
        signal_all(_still(under_way, mark), signal.SIGKILL)
    except BaseException:
        signal_all([worker.pid for worker in workers], signal.SIGCONT)
        raise


def _end_all(daemons: list[Daemon], mark: str) -> None:
    below = {pid for each in daemons for pid in descendants(each.pid)}
    pids = [*(each.pid for each in daemons), *below]
    signal_all(_still(pids, mark), signal.SIGTERM)
    signal_all(_still(pids, mark), signal.SIGCONT)  # a worker that sleeps wakes up to the request to end
    _wait(lambda: not _still(pids, mark), SERVICE_GRACE)
    signal_all(_still(pids, mark), signal.SIGKILL)
    _wait(lambda: not _still(pids, mark), SERVICE_GRACE)


def _sweep(mark: str) -> None:
    """End what carries the mark though no service is above it any more."""
    signal_all(marked(mark), signal.SIGTERM)
    _wait(lambda: not marked(mark), SERVICE_GRACE)
    while left := marked(mark):
        signal_all(left, signal.SIGKILL)
        time.sleep(0.1)


def _runs(mark: str, workers: list[Daemon] | None) -> dict[int, str]:
    """Flow run by process, of these workers or of all, those whose worker has died too."""
    pids = marked(mark) if workers is None else [pid for each in workers for pid in descendants(each.pid) if carries(pid, mark)]
    found = {pid: _flow_run(pid) for pid in pids}
    return {pid: run for pid, run in found.items() if run}


def _flow_run(pid: int) -> str:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((each.removeprefix(_RUN).decode() for each in variables if each.startswith(_RUN)), "")


def _roots(under_way: dict[int, str]) -> list[int]:
    """The topmost process of each run: it passes the request on to those below."""
    below = {child for pid in under_way for child in descendants(pid)}
    return [pid for pid in under_way if pid not in below]


def _still(pids: Iterable[int], mark: str) -> list[int]:
    return [pid for pid in pids if carries(pid, mark)]


def _signal_group(pid: int, number: int) -> None:
    """Signal a process, with its group where it leads one."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def _starting(daemon: Daemon) -> bool:
    """Whether a process is between fork and exec, or has only just begun."""
    try:
        process = psutil.Process(daemon.pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and time.time() - process.create_time() < 1)
    except psutil.Error:
        return False


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def _count(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"
