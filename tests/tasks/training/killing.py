"""Trains a job and kills it again and again: `python killing.py JOB.json KILLS SEED RANKS LEAST END`.

RANKS is a list: of how many ranks each attempt is, in turn. LEAST is the number of steps before each kill. END is
`end` where the training is to be left alone after the last kill.

Every attempt is forked from this process, which has imported all that is slow, so that an attempt takes a second or two. What
torchrun adds is tested elsewhere. The last line says at which step each attempt began.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from random import Random

import deepspeed  # noqa: F401
import peft  # noqa: F401
import torch
import transformers
import transformers.models.llama.modeling_llama  # noqa: F401

from tasks.process import parse_event
from tasks.training import loop  # noqa: F401
from tasks.training.worker import main as work

SECONDS = 300.0


class Attempt:
    """The ranks of one attempt, each a fork of this process."""

    def __init__(self, path: str, ranks: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.reader, writer = os.pipe()
        self.pids = [self._fork(path, rank, ranks, port, writer) for rank in range(ranks)]
        os.close(writer)
        self.text = b""
        self.resumed_from = -1

    def _fork(self, path: str, rank: int, ranks: int, port: int, writer: int) -> int:
        if pid := os.fork():
            return pid
        os.dup2(writer, 1)
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
        )
        status = 1
        try:
            status = work([path])
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            os._exit(status)

    def steps(self, most: int) -> int:
        """Read until `most` steps were reported, or the ranks have ended; how many were."""
        found, deadline = 0, time.monotonic() + SECONDS
        while found < most and time.monotonic() < deadline:
            if not select.select([self.reader], [], [], 1.0)[0]:
                continue
            chunk = os.read(self.reader, 1 << 16)
            if not chunk:
                break
            *lines, self.text = (self.text + chunk).split(b"\n")
            for line in lines:
                event = parse_event(line.decode()) or {"kind": line.decode()}
                sys.stdout.write(f"{event}\n")
                found += event["kind"] == "metrics" and "loss" in event
                if event["kind"] == "started":
                    self.resumed_from = event["resumed_from"]
        return found

    def kill(self, most: int) -> None:
        """SIGKILL to `most` ranks, and to the others a moment later, as torchrun does."""
        for pid in self.pids[-most:]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)

    def end(self) -> list[int]:
        """The exit statuses."""
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        os.close(self.reader)
        return statuses


def main(path: str, kills: int, seed: str, ranks: list[int], least: int, ends: bool = True) -> None:
    """Kill the training so often, each time with the next number of ranks, then let it end if it is to."""
    random, begun = Random(seed), []
    for number in range(kills):
        attempt = Attempt(path, ranks[number % len(ranks)])
        attempt.steps(random.randrange(least, least + 6))
        time.sleep(random.uniform(0, 0.15))  # into a step, into a checkpoint, or between its files
        attempt.kill(random.randint(1, len(attempt.pids)))
        attempt.end()
        begun.append(attempt.resumed_from)
    if not ends:
        sys.stdout.write(json.dumps(begun) + "\n")
        return
    attempt = Attempt(path, ranks[kills % len(ranks)])
    attempt.steps(1_000_000)
    statuses = attempt.end()
    assert not any(statuses), statuses
    sys.stdout.write(json.dumps([*begun, attempt.resumed_from]) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]), int(sys.argv[5]), sys.argv[6] == "end")
