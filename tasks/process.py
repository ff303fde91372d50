"""Child processes for everything heavy: started through the shim, their output pumped line by line, never orphaned.

A child reports progress by printing lines of the form `@event {json}`; everything else is log. Standard library only, since
ranks import it.
"""

import contextvars
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from tasks.encryption import vault
from tasks.errors import ChildError, StoppedError
from tasks.shim import signal_all

_EVENT = "@event "
TAIL = 200
Event = dict[str, Any]
# What a child works on was fetched before it started, and a log is no place for bars.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def emit(kind: str, **fields: object) -> None:
    """Print one event for the process that started this one."""
    sys.stdout.write(_EVENT + json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


def child_environment(accelerator: str, threads: int, tag: str) -> dict[str, str]:
    """Variables of a process that computes with a model; `tag` names it, as TUNEFLOW_RUN."""
    variables = {**QUIET, **vault.variables(), "OMP_NUM_THREADS": str(threads), "TUNEFLOW_RUN": tag}
    if accelerator == "cpu":
        variables |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return variables


def hush() -> None:
    """Leave out of this process's log what libraries warn of and no user can mend."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("torch.distributed", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def parse_event(line: str) -> Event | None:
    """The event in a line, or None for a line of log."""
    # torchrun may put the rank before a line: [default0]:@event {...}
    _, found, text = line.partition(_EVENT)
    if not found:
        return None
    try:
        event = json.loads(text)
    except ValueError:
        return None  # two ranks wrote into one line; it stays in the log
    return event if isinstance(event, dict) else None


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def run_child(
    command: Sequence[str],
    *,
    on_event: Callable[[Event], None] = lambda _: None,
    on_line: Callable[[str], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    should_stop: Callable[[], str] = lambda: "",
    poll_seconds: float = 5.0,
    grace_seconds: float = 20.0,
    holds: Sequence[int] = (),
) -> None:
    """Run a command to its end.

    Args:
        command: program and arguments.
        on_event: called with each event the child prints.
        on_line: called with each other line.
        environment: variables added to this process's own.
        log: file that gets every line.
        should_stop: asked every `poll_seconds`, in a thread of its own; a sentence stops the child, "" lets it go on.
        poll_seconds: how often `should_stop` is asked.
        grace_seconds: how long the child may take to end after SIGTERM, before SIGKILL.
        holds: file descriptors that stay open until everything below the child has ended, leases among them.

    Raises:
        StoppedError: `should_stop` gave a reason.
        ChildError: the child ended with another status than 0; it holds the last lines.
    """
    tail: deque[str] = deque(maxlen=TAIL)
    mark = uuid4().hex
    entry = f"TUNEFLOW_CHILD={mark}"
    variables = _variables({"TUNEFLOW_CHILD": mark, **(environment or {})})
    process = subprocess.Popen(
        _shim(command, grace_seconds),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
        env=variables,
        pass_fds=holds,
    )
    watch = _Watch(should_stop, poll_seconds, process.terminate)
    try:
        _pump(process, tail, on_event, on_line, log, lambda: _sweep(entry, grace_seconds))
        returncode = process.wait()
    finally:
        watch.end()
        _end(process, grace_seconds)
        if process.returncode < 0:
            _sweep(entry, grace_seconds)
    if watch.reason:
        raise StoppedError(f"{_name(command)} was stopped: {watch.reason}.", returncode, tail)
    if returncode:
        raise ChildError(f"{_name(command)} ended with status {returncode}. Its last lines:", returncode, tail)


@contextmanager
def companion(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, grace_seconds: float
) -> Iterator[Callable[[], bool]]:
    """Run a command beside this process for as long as the context lasts; yields whether it still runs.

    It has a session of its own, so that Ctrl-C on a terminal does not reach it, and it ends when this process does.

    Args:
        command: program and arguments.
        environment: variables added to this process's own.
        log: file that gets its output.
        grace_seconds: how long it may take to end after SIGTERM, before SIGKILL.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            _shim(command, grace_seconds), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=_variables(environment), start_new_session=True,
        )  # fmt: skip
    try:
        yield lambda: process.poll() is None
    finally:
        _end(process, grace_seconds)


def _shim(command: Sequence[str], grace_seconds: float) -> list[str]:
    return [*python_module("tasks.shim"), str(os.getpid()), str(grace_seconds), *command]


def _variables(more: Mapping[str, str]) -> dict[str, str]:
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **more}


class _Watch:
    """Asks now and then, beside the pump, whether to stop: an answer that takes long holds up no line."""

    def __init__(self, should_stop: Callable[[], str], seconds: float, stop: Callable[[], None]) -> None:
        self.reason = ""
        self._should_stop, self._seconds, self._stop = should_stop, seconds, stop
        self._over = threading.Event()
        # The question may concern the flow run, which the context of this thread knows.
        threading.Thread(target=contextvars.copy_context().run, args=(self._ask,), daemon=True).start()

    def _ask(self) -> None:
        while not self._over.wait(self._seconds):
            if (reason := self._should_stop()) and not self._over.is_set():
                self.reason = reason
                self._stop()
                return

    def end(self) -> None:
        self._over.set()


def _pump(
    process: "subprocess.Popen[str]",
    tail: deque[str],
    on_event: Callable[[Event], None],
    on_line: Callable[[str], None],
    log: Path | None,
    sweep: Callable[[], None],
) -> None:
    """Hand on every line until the output ends.

    Whatever the child started may hold the output open, so that a shim that was killed is swept up after at once.
    """
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    file: IO[str] | None = log.open("a", encoding="utf-8") if log else None
    try:
        while True:
            try:
                line = lines.get(timeout=1.0)
            except queue.Empty:
                line = ""
            if line is None:
                return
            if line:
                _hand_on(line.rstrip("\n"), tail, on_event, on_line, file)
            if (process.poll() or 0) < 0:
                sweep()
    finally:
        if file:
            file.close()


def _hand_on(
    line: str,
    tail: deque[str],
    on_event: Callable[[Event], None],
    on_line: Callable[[str], None],
    file: IO[str] | None,
) -> None:
    if file:
        file.write(line + "\n")
        file.flush()
    event = parse_event(line)
    if event is not None:
        on_event(event)
    elif line.strip():
        tail.append(line)
        on_line(line)


def _read(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]", grace_seconds: float) -> None:
    """Make sure that the shim, and with it everything below it, is gone."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_seconds + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _sweep(entry: str, grace_seconds: float) -> None:
    """End every process that has `entry` in its environment: the shim's work where the shim itself was killed."""
    signal_all(carrying(entry), signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while (left := carrying(entry)) and time.monotonic() < deadline + 5:
        if time.monotonic() >= deadline:
            signal_all(left, signal.SIGKILL)
        time.sleep(0.05)


def carries(pid: int, entry: str) -> bool:
    """Whether a process has `entry`, a NAME=value, in its environment."""
    try:
        return entry.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it ended, or is not ours


def carrying(entry: str) -> list[int]:
    """Every process that has `entry`, a NAME=value, in its environment, but this one."""
    numbers = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return [pid for pid in numbers if pid != os.getpid() and carries(pid, entry)]


def _name(command: Sequence[str]) -> str:
    words = [word for word in command if not word.startswith("-")]
    return next((word for word in words[1:] if word.startswith("tasks.")), Path(words[0]).name)
