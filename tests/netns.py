"""Hosts for tests: network namespaces of this machine. They need root, and the command `ip`."""

import os
import signal
import subprocess
from itertools import count

_NETS = count()  # the system needs a while to give a name free again
NAMESPACE = "ip netns exec {host} sh -c {command}"  # how a command is run on one


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Net:
    """Two hosts, each a network namespace on one bridge."""

    def __init__(self) -> None:
        self.mark = f"{os.getpid() % 10_000}{next(_NETS)}"
        self.bridge, self.prefix = f"tfb{self.mark}", f"10.77.{os.getpid() % 250}"
        self.address = f"{self.prefix}.1"
        self.hosts = tuple(f"tf{name}{self.mark}" for name in "ab")

    def up(self) -> None:
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for number, host in enumerate(self.hosts, 2):
            ip("netns", "add", host)
            ip("link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("link", "set", f"v{host}", "master", self.bridge)
            ip("link", "set", f"v{host}", "up")
            ip("-n", host, "addr", "add", f"{self.prefix}.{number}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", "eth0", "up")

    def down(self) -> None:
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)

    def lose(self, host: str) -> None:
        """The power of a host goes: its link, and every process on it at once."""
        ip("link", "set", f"v{host}", "down")
        pids = subprocess.run(["ip", "netns", "pids", host], check=True, capture_output=True, text=True).stdout.split()
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)

    def restore(self, host: str) -> None:
        ip("link", "set", f"v{host}", "up")
