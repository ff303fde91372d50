"""What runs on each host: reads what to start from its standard input, and becomes torchrun.

The input is one line of JSON, so that nothing of it, keys of the data among it, stands in a list of processes. With arguments,
MEMBER and SECONDS, it ends the ranks of that member which are older: they wait for a host that will not answer.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from tasks.process import carrying
from tasks.shim import signal_all

MEMBER = "TUNEFLOW_MEMBER"  # names the group and the host in the environment of all that runs there
_DISCARD_PORT = 9  # nothing is sent to it: the kernel is asked which way it would go


def become_torchrun() -> None:
    """Run torchrun in place of this process, as the standard input says."""
    told = json.loads(sys.stdin.readline())
    address = address_towards(told["address"])
    environment = {**os.environ, **told["environment"]}
    if told["backend"] == "gloo":
        environment.setdefault("GLOO_SOCKET_IFNAME", interface_of(address))
    else:
        environment.setdefault("NCCL_SOCKET_IFNAME", interface_of(address))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    arguments = [f"--local-addr={address}", *told["arguments"]]
    os.chdir(Path(__file__).parents[2])
    os.execve(sys.executable, [sys.executable, "-m", "torch.distributed.run", *arguments], environment)  # noqa: S606


def end_ranks(member: str, seconds: float) -> None:
    """SIGKILL to each rank of `member` that is older than `seconds`; torchrun starts it again."""
    old = [pid for pid in carrying(f"{MEMBER}={member}") if _is_rank(pid) and _age(pid) > seconds]
    signal_all(old, signal.SIGKILL)


def _is_rank(pid: int) -> bool:
    try:
        return b"\0RANK=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _age(pid: int) -> float:
    """Seconds since a process was started."""
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


def address_towards(other: str) -> str:
    """This host's address on the way to `other`."""
    family, *_, target = socket.getaddrinfo(other, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """The network interface that has an address.

    Raises:
        LookupError: none has.
    """
    import psutil

    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return str(name)
    raise LookupError(f"no network interface has the address {address}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        end_ranks(sys.argv[1], float(sys.argv[2]))
    else:
        become_torchrun()
