"""Trainings without torchrun: ranks are forked from a process that has imported everything, which takes a tenth of the time.

What torchrun adds is tested in test_launch.py; what is tested with these is what the ranks compute.
"""

import json
import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tasks.training.job import TrainingJob

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.tasks.training.imports"])


def run(job: TrainingJob, until: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Train `job` on as many ranks as its plan says; what result.json says.

    Args:
        job: what to train.
        until: asked now and then; the ranks are killed once it says so, and the result is empty.
    """
    job.checkpoints.mkdir(parents=True, exist_ok=True)
    job.out.mkdir(parents=True, exist_ok=True)
    path = job.checkpoints / "job.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    ranks = start(_train, path, job.plan.devices)
    while until is not None and any(process.is_alive() for process in ranks):
        ranks[0].join(0.005)
        if until():
            for process in ranks:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
            until = None
    for process in ranks:
        process.join()
    codes = [process.exitcode for process in ranks]
    if -signal.SIGKILL in codes:
        return {}
    if any(codes):
        raise RuntimeError((job.checkpoints / "rank-0.log").read_text(encoding="utf-8")[-6000:])
    result: dict[str, Any] = json.loads((job.out / "result.json").read_text(encoding="utf-8"))
    return result


def start(act: Callable[[Path], int], path: Path, world: int) -> list[BaseProcess]:
    """Have `world` ranks call `act(path)`, which must be a function of a module; each has a rank-N.log beside it."""
    port = _free_port()
    ranks: list[BaseProcess] = [_SERVER.Process(target=_rank, args=(act, path, rank, world, port)) for rank in range(world)]
    for process in ranks:
        process.start()
    return ranks


def _train(path: Path) -> int:
    from tasks.training.worker import main

    return main([str(path)])


def _rank(act: Callable[[Path], int], path: Path, rank: int, world: int, port: int) -> None:
    log = os.open(path.with_name(f"rank-{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    try:
        code = act(path)
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
