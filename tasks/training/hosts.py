"""How a command is run on another host: through the template that reaches it, ssh as a rule."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tasks.errors import RequestError
from tasks.training.agent import address_towards
from tasks.training.job import Cluster, TrainingJob

_ROOT = Path(__file__).parents[2]
_SECONDS = 20.0
COMMAND, ADDRESS = "TUNEFLOW_HOST_COMMAND", "TUNEFLOW_ADDRESS"  # variables that say what is not found out


def cluster_of(hosts: Sequence[str], per_host: int = 1, least: int = 1) -> Cluster | None:
    """The hosts with `per_host` ranks on each, `least` of which are enough to train; None where there are none.

    The variable TUNEFLOW_HOST_COMMAND replaces ssh, and TUNEFLOW_ADDRESS is this machine's address where the hosts see another
    one than it would find.

    Raises:
        RequestError: the first host's name leads nowhere.
    """
    if not hosts:
        return None
    first = hosts[0].rpartition("@")[2]
    try:
        address = os.environ.get(ADDRESS) or address_towards(first)
    except OSError as error:
        raise RequestError(
            f"resources.hosts names {first}, which has no address here: {error.strerror}. Use a name or address that this "
            f"machine can resolve, or say in {ADDRESS} which address of this machine the hosts can reach."
        ) from error
    cluster = Cluster(hosts=tuple(hosts), least=least, per_host=per_host, address=address)
    command = os.environ.get(COMMAND, "")
    return cluster.model_copy(update={"command": command}) if command else cluster


def unusable(cluster: Cluster, folder: Path) -> list[str]:
    """Why hosts cannot take part, a sentence each: they are not reached, or do not see `folder` or this Python."""
    problems = []
    for host in cluster.hosts:
        words = ["sh", "-c", f"test -d {shlex.quote(str(folder))} && test -x {shlex.quote(sys.executable)}"]
        try:
            done = subprocess.run(
                on_host(cluster, host, words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS,
                check=False,
            )  # fmt: skip
            said, code = done.stderr.strip()[-200:], done.returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            said, code = str(error), 1
        if code:
            problems.append(
                f"resources.hosts: {host} cannot take part ({said or 'it does not see the same files'}). It must be reached "
                f"without a password, and see {_ROOT}, {folder} and {sys.executable} at the same paths."
            )
    return problems


def on_host(cluster: Cluster, host: str, command: Sequence[str]) -> list[str]:
    """The local command that runs `command` on `host`, in this project's folder.

    >>> on_host(Cluster(hosts=("a",), address="b", command="ssh {host} {command}"), "a", ["kill", "-9", "7"])[:2]
    ['ssh', 'a']
    """
    words = f"cd {shlex.quote(str(_ROOT))} && exec {shlex.join(command)}"
    parts = {"{host}": host, "{command}": words}
    return [parts.get(word, word) for word in shlex.split(cluster.command)]


def agent(cluster: Cluster, host: str, grace_seconds: float) -> list[str]:
    """The local command that starts torchrun on `host`, so that nothing is left there when the connection ends."""
    shim = [sys.executable, "-m", "tasks.shim", "0", f"{grace_seconds:g}"]
    return on_host(cluster, host, [*shim, sys.executable, "-m", "tasks.training.agent"])


def remote(job: TrainingJob) -> Callable[[str, list[str]], None] | None:
    """Runs a command on a host of the job; None where it has none."""
    cluster = job.cluster
    if cluster is None:
        return None

    def run(host: str, command: list[str]) -> None:
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                on_host(cluster, host, command), stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
            )

    return run
