"""Runs one command so that nothing it starts outlives the process that asked for it. Linux; standard library only.

`python -m tasks.shim PARENT GRACE COMMAND...`, PARENT being the id of the process that asks, puts the command into a session
of its own, becomes the parent of everything it leaves behind (PR_SET_CHILD_SUBREAPER), and asks the kernel for SIGTERM when its
own parent dies (PR_SET_PDEATHSIG). On SIGTERM or SIGINT all that runs below it gets SIGTERM, and SIGKILL after GRACE seconds.
The exit status is the command's; 128 + n for signal n. What it runs yields the processor to others: a server on the same
machine must answer while every core computes, or runs would miss their heartbeats.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_NICENESS = 5  # added to the own; where nobody else computes it costs nothing


def die_with_parent(parent: int = 0, number: int = signal.SIGTERM) -> None:
    """Ask the kernel to send `number` to this process when its parent dies; at once where that has happened already.

    Args:
        parent: process id that the parent has where it lives; 0: whatever it is now.
        number: the signal.
    """
    parent = parent or os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def descendants(root: int) -> list[int]:
    """Process ids of everything below `root`, from /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it ended while we looked
            if fields[0] != "Z":
                parents[int(folder.name)] = int(fields[1])
    found: list[int] = []
    frontier = [root]
    while frontier:
        parent = frontier.pop()
        children = [pid for pid, its_parent in parents.items() if its_parent == parent]
        found += children
        frontier += children
    return found


def end(pids: list[int], grace: float) -> None:
    """SIGTERM to each process, SIGKILL to what is still there after `grace` seconds."""
    signal_all(pids, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        _reap()
        if not descendants(os.getpid()):
            return
        time.sleep(0.05)
    signal_all(descendants(os.getpid()), signal.SIGKILL)
    _reap()


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    libc = ctypes.CDLL(None)
    parent, grace, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.nice(_NICENESS)
    asked: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    die_with_parent(parent)
    own = os.getpid()
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=lambda: die_with_parent(own))  # noqa: PLW1509
    while child.poll() is None and not asked:
        time.sleep(0.05)
    if asked:
        end([child.pid, *descendants(os.getpid())], grace)
        return 128 + asked[0]
    end(descendants(os.getpid()), min(grace, 5.0))
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def signal_all(pids: list[int], number: int) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it ended by itself


def _reap() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
