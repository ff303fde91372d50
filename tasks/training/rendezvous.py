"""Several hosts at one training: `python -m tasks.training.rendezvous JOB.json` starts an agent on each and outlives any.

The agents are torchrun's. They meet in a store that this process holds, so that no host's loss takes it away: those that are
left form a smaller group and go on from the newest checkpoint, and a host that is back joins, and training goes on with it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from tasks.process import emit, parse_event
from tasks.shim import die_with_parent
from tasks.training.agent import MEMBER
from tasks.training.heartbeats import HOST
from tasks.training.hosts import agent, remote
from tasks.training.job import Cluster, TrainingJob
from tasks.training.launch import environment, output_folder

_GRACE_SECONDS = 20.0
_WAITS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)  # before a host is tried again
_LEFT_SECONDS = 5.0  # after the loss of a host, for ranks to notice; one without power closes no connection
_RESTARTS = 3  # of the ranks of a host, without the host being left
# A host that says nothing for 6 s is lost; a group waits 5 s for more hosts once enough are there.
_SETTINGS = "is_host=0,join_timeout=120,last_call_timeout=5,keep_alive_interval=2,keep_alive_max_attempt=3,read_timeout=30"


@dataclass
class _Member:
    """One host: its agent, if one runs, and when the next is started."""

    host: str
    process: "subprocess.Popen[str] | None" = None
    tried: int = 0
    again: float = 0.0


class Group:
    """The agents of one attempt.

    Args:
        job: what is trained.
        cluster: where.
        program: what each rank runs, as torchrun's last arguments.
        tag: names the processes in their environment, as TUNEFLOW_RUN.
    """

    def __init__(self, job: TrainingJob, cluster: Cluster, program: Sequence[str], tag: str) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._job, self._cluster, self._program, self._id = job, cluster, program, uuid4().hex
        self._environment = environment(job, tag)
        # Every address of this machine, or the hosts could not come in; and nobody here waits for them.
        self._store = TCPStore(
            "0.0.0.0", cluster.port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)  # noqa: S104
        )  # fmt: skip
        self._members = [_Member(host) for host in cluster.hosts]
        self._hopeless = threading.Event()  # a rank failed as it would fail again
        self._asked = threading.Event()  # to stop
        self._lost = 0.0  # when a host was lost whose ranks the others may still wait for
        self._said = threading.Lock()

    def run(self) -> int:
        """Start an agent on each host and see to them until training has ended; the exit status."""
        signal.signal(signal.SIGTERM, lambda *_: self._asked.set())
        for member in self._members:
            self._start(member)
        while True:
            time.sleep(0.2)
            now = time.monotonic()
            codes = [self._look(member, now) for member in self._members]
            if self._lost and now - self._lost > _LEFT_SECONDS:
                self._wake(now - self._lost)
            if 0 in codes:
                return self._end(0)
            if self._asked.is_set():
                return self._end(128 + signal.SIGTERM)
            if self._hopeless.is_set() or all(member.process is None for member in self._members):
                return self._end(1)

    def _look(self, member: _Member, now: float) -> int | None:
        """The status with which a member's agent has just ended, if it has; it is started again when its time has come."""
        if member.process is None:
            running = any(other.process for other in self._members)
            if running and member.tried <= len(_WAITS) and now >= member.again:
                emit("note", text=f"host {member.host} is asked to join again")
                self._start(member)
            return None
        code = member.process.poll()
        if code:
            wait = _WAITS[min(member.tried, len(_WAITS)) - 1]
            member.process, member.again, self._lost = None, now + wait, now
            emit("log", text=f"host {member.host} is lost: its agent ended with status {code}; it is asked again in {wait:g} s")
        return code

    def _wake(self, seconds: float) -> None:
        """End the ranks of the hosts that are left, where they are older than `seconds`: torchrun forms a smaller group."""
        self._lost = 0.0
        run = remote(self._job)
        for member in self._members:
            if run and member.process:
                words = [sys.executable, "-m", "tasks.training.agent", self._member(member.host), f"{seconds:.1f}"]
                threading.Thread(target=run, args=(member.host, words), daemon=True).start()

    def _member(self, host: str) -> str:
        return f"{self._id}/{host}"

    def _start(self, member: _Member) -> None:
        member.tried += 1
        member.process = subprocess.Popen(
            agent(self._cluster, member.host, _GRACE_SECONDS), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1,
        )  # fmt: skip
        threading.Thread(target=self._pump, args=(member.process, self._told(member.host)), daemon=True).start()

    def _told(self, host: str) -> str:
        """What an agent reads: its variables, where the store is, and torchrun's arguments."""
        cluster = self._cluster
        arguments = [
            f"--nnodes={cluster.least}:{len(cluster.hosts)}", f"--nproc-per-node={cluster.per_host}", "--rdzv-backend=c10d",
            f"--rdzv-endpoint={cluster.address}:{self._store.port}", f"--rdzv-id={self._id}", f"--rdzv-conf={_SETTINGS}",
            f"--max-restarts={_RESTARTS}", "--monitor-interval=0.5", "--tee=3",
            f"--log-dir={output_folder(self._job) / host}", *self._program,
        ]  # fmt: skip
        told: Mapping[str, object] = {
            "address": cluster.address, "backend": self._job.plan.backend, "arguments": arguments,
            "environment": {**self._environment, HOST: host, MEMBER: self._member(host)},
        }  # fmt: skip
        return json.dumps(told)

    def _pump(self, process: "subprocess.Popen[str]", told: str) -> None:
        """Tell an agent what to do, and hand on what it says."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(told + "\n")
            process.stdin.close()
        except OSError:
            return  # it ended at once; its status says so
        for line in process.stdout:
            with self._said:
                sys.stdout.write(line)
                sys.stdout.flush()
            event = parse_event(line)
            if event and event.get("kind") == "failed" and event.get("failure") != "infrastructure":
                self._hopeless.set()

    def _end(self, code: int) -> int:
        """Let the agents end by themselves where training is done, else end them: the store stays until they have."""
        running = [member.process for member in self._members if member.process]
        if code:
            _terminate(running)
        _wait(running)
        _terminate(running)
        return code


def _terminate(processes: "list[subprocess.Popen[str]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()


def _wait(processes: "list[subprocess.Popen[str]]") -> None:
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.1)


def main(arguments: list[str]) -> int:
    """Train the job in the file `arguments[0]` on its hosts, each rank with the program that follows; the exit status."""
    die_with_parent()
    path = arguments[0]
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    assert job.cluster is not None
    program = arguments[1:] or ["-m", "tasks.training.worker"]
    return Group(job, job.cluster, [*program, path], os.environ.get("TUNEFLOW_RUN", "")).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
