"""Leases on devices: two runs of one machine never compute on the same GPU at once.

A lease is a name in the kernel's abstract socket namespace. It is held by open file descriptors alone, so that it ends with
the last process that holds it, however that ends, and leaves no file behind. All users of a machine share the namespace; a
container with a network of its own has one of its own.
"""

import contextvars
import os
import re
import resource
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from shutil import which

from tasks.errors import StoppedError

STAND_IN = "TUNEFLOW_STAND_IN"  # names the device that a worker without GPUs stands in for
_PREFIX = "\0tuneflow-device-"
_CREDENTIALS = struct.Struct("3i")  # process, user and group id of the other end


def visible_devices(accelerator: str) -> tuple[str, ...]:
    """Names of the devices that this process may compute on and must not share; none for a plain CPU."""
    if accelerator != "cuda":
        return tuple(filter(None, [os.environ.get(STAND_IN, "")]))
    uuids = _gpu_uuids()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(uuids) or ("gpu-0",)
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return tuple(uuids[int(name)] if name.isdigit() and int(name) < len(uuids) else _whole(name, uuids) for name in names)


def peak_memory_gib(accelerator: str) -> float:
    """The most that this process has held: of its GPU on cuda, else of main memory."""
    if accelerator == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextmanager
def leased(
    names: Sequence[str],
    *,
    waiting: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], str] = lambda: "",
    poll_seconds: float = 0.5,
) -> Iterator[tuple[int, ...]]:
    """Hold every device of `names`; yields the file descriptors, to be handed to a process that shall hold them too.

    Args:
        names: of the devices. They are taken in their sorted order, so that two who want the same ones do not wait in a ring.
        waiting: told once for each device that another process holds.
        should_stop: asked while waiting; a sentence ends the waiting.
        poll_seconds: between two tries.

    Raises:
        StoppedError: `should_stop` gave a reason.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(_lease(name, waiting, should_stop, poll_seconds)) for name in sorted(set(names))]
        yield tuple(lease.fileno() for lease in held)


def holder(name: str) -> int:
    """Process id of who took the lease on a device; 0 where nobody holds it."""
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(_PREFIX + name)
        except OSError:
            return 0
        found = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(found)[0])


def busy_share(names: Sequence[str]) -> float | None:
    """The largest share of time, 0..1, that one of these GPUs computed in the last second or so; None: it cannot be said."""
    found = _query("uuid,utilization.gpu")
    shares = [float(use) / 100 for uuid, use in found if uuid in names and use.replace(".", "").isdigit()]
    return max(shares) if shares else None


@contextmanager
def watched(names: Sequence[str], minutes: float, say: Callable[[float], None], poll_seconds: float = 60.0) -> Iterator[None]:
    """Look after the GPUs of `names` as long as the context lasts; `say` is called once each time they idle for `minutes`.

    What computes nothing on a GPU it holds costs money and keeps others waiting. 0 minutes: nobody looks.
    """
    over = threading.Event()

    def look() -> None:
        since, told = time.monotonic(), False
        while not over.wait(poll_seconds):
            share = busy_share(names)
            if share is None:  # not a GPU, or the driver does not say for once: neither busy nor idle
                continue
            if share > 0:
                since, told = time.monotonic(), False
            elif not told and time.monotonic() - since >= minutes * 60:
                told = True
                say((time.monotonic() - since) / 60)

    if names and minutes and which("nvidia-smi"):
        # Whatever is said may concern the flow run, which the context of this thread knows.
        threading.Thread(target=contextvars.copy_context().run, args=(look,), daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def _lease(
    name: str, waiting: Callable[[str], None], should_stop: Callable[[], str], poll_seconds: float
) -> Iterator[socket.socket]:
    lease = socket.socket(socket.AF_UNIX)
    told = False
    try:
        while not _taken(lease, name):
            if not told:
                waiting(f"the device {name} is held by process {holder(name) or 'unknown'}; waiting for it")
                told = True
            if reason := should_stop():
                raise StoppedError(f"Waiting for the device {name} was stopped: {reason}.")
            time.sleep(poll_seconds)
        yield lease
    finally:
        lease.close()


def _taken(lease: socket.socket, name: str) -> bool:
    try:
        lease.bind(_PREFIX + name)
    except OSError:
        return False
    lease.listen(64)  # nobody is ever answered: whoever connects learns the holder's process id
    return True


def _whole(name: str, uuids: Sequence[str]) -> str:
    """The whole UUID where the environment gives its beginning, as the driver allows."""
    return next((uuid for uuid in uuids if uuid.startswith(name)), f"gpu-{name}")


def _gpu_uuids() -> list[str]:
    return [uuid for uuid, _ in _query("uuid,index")]


def _query(fields: str) -> list[tuple[str, str]]:
    """Two fields of every GPU, in the driver's order."""
    program = which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return [(row[0], row[1]) for line in done.stdout.splitlines() if len(row := re.split(r"\s*,\s*", line.strip())) == 2]
    return []
