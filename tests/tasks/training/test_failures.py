"""Which class a failure belongs to."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import ModelError, TrainingError
from tasks.training.failures import Evidence, class_of, judge, memory_kills

CPU_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (torch.cuda.OutOfMemoryError("x"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError(CPU_MEMORY), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "infrastructure"),
        (TimeoutError("timed out"), "infrastructure"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5"), "infrastructure"),
        (RuntimeError("Gloo connectFullMesh failed with ... Connection refused"), "infrastructure"),
        (torch.distributed.DistNetworkError("failed to connect"), "infrastructure"),
        (torch.distributed.DistBackendError("NCCL error in: x.cpp, remote process exited, ncclRemoteError"), "infrastructure"),
        (torch.distributed.DistBackendError("NCCL error in: x.cpp, invalid usage, ncclInvalidUsage"), "other"),
        (OSError(errno.EIO, "Input/output error"), "infrastructure"),
        (OSError(errno.ESTALE, "Stale file handle"), "infrastructure"),
        (OSError(errno.ENOSPC, "No space left on device"), "other"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "other"),
        (TrainingError("x", "loss_not_finite"), "loss_not_finite"),
        (TrainingError("out of memory"), "other"),  # it was said on purpose
        (ModelError("connection refused"), "other"),
        (ValueError("not enough memory cells"), "other"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "other"),
        (KeyError("input_ids"), "other"),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}"[:50] if isinstance(value, Exception) else str(value),
)
def test_the_class_of_an_exception(error: BaseException, failure: str) -> None:
    assert class_of(error) == failure


def summary(*ends: tuple[int, int]) -> tuple[str, ...]:
    """The end of torchrun's output; the root cause comes last, as in torch 2.13."""
    lines = []
    for rank, code in ends:
        lines += ["[1]:", "  time      : 2026-01-01_00:00:00", "  host      : h", f"  rank      : {rank} (local_rank: {rank})",
                  f"  exitcode  : {code} (pid: 7)"]  # fmt: skip
    return ("torch.distributed.elastic.multiprocessing.errors.ChildFailedError:", *lines)


def failed(failure: str, text: str = "why", rank: int = 0, ours: bool = False) -> dict[str, Any]:
    return {"kind": "failed", "error": "SomeError", "text": text, "failure": failure, "rank": rank, "ours": ours}


LOST, MEMORY = failed("infrastructure", "Connection closed by peer"), failed("out_of_memory", "can't allocate", rank=1)


@pytest.mark.parametrize(
    ("evidence", "failure", "found"),
    [
        (Evidence(1, summary((1, -15), (0, 1)), (MEMORY,)), "out_of_memory", "rank 1 ended with SomeError: can't allocate"),
        (Evidence(1, summary((1, 1), (0, 1)), (LOST, MEMORY)), "out_of_memory", "rank 1 ended with SomeError: can't allocate"),
        (Evidence(1, summary((0, -9)), memory_kills=True), "out_of_memory", "rank 0 was killed by SIGKILL, and the kernel"),
        (Evidence(1, summary((1, -9), (0, 1)), (LOST,), memory_kills=True), "out_of_memory", "rank 1 was killed by SIGKILL"),
        (Evidence(1, summary((0, 1)), memory_kills=True), "other", "the training processes ended with status 1"),
        (Evidence(1, summary((0, -9))), "infrastructure", "rank 0 was killed by SIGKILL, and not for want of memory"),
        (Evidence(137), "infrastructure", "the training processes were killed by SIGKILL"),
        (Evidence(-9), "infrastructure", "the training processes were killed by SIGKILL"),
        (Evidence(1, summary((0, 143)), stopped=True), "preempted", "SIGTERM from outside, and wrote a checkpoint"),
        (Evidence(1, summary((0, -15))), "preempted", "SIGTERM from outside, before they could write"),
        (Evidence(1, summary((1, -15), (0, 1)), (LOST,)), "infrastructure", "rank 0 ended with SomeError: Connection closed"),
        (Evidence(1, summary((0, 1), (1, -15)), (LOST,)), "preempted", "before they could write"),
        (Evidence(143), "preempted", "before they could write"),
        (Evidence(1, ("SignalException: Process 7 got signal: 15",)), "preempted", "before they could write"),
        (Evidence(1, ("x.RendezvousConnectionError: The connection failed.",)), "infrastructure", "RendezvousConnectionError"),
        (Evidence(1, summary((0, -11))), "other", "the training processes ended with status -11"),
        (Evidence(1, (), (failed("other", "No.\nDo this.", ours=True),)), "other", "No.\nDo this."),
    ],
)  # fmt: skip
def test_the_class_of_an_attempt(evidence: Evidence, failure: str, found: str) -> None:
    judged = judge(evidence)
    assert judged[0] == failure
    assert found in judged[1]


def test_kills_for_want_of_memory_are_counted_where_this_process_belongs(tmp_path: Path) -> None:
    process, groups = tmp_path / "proc", tmp_path / "cgroup"
    (process / "self").mkdir(parents=True)
    assert memory_kills(process, groups) == {}
    (process / "vmstat").write_text("nr_free_pages 5\noom_kill 3\n")
    assert memory_kills(process, groups) == {str(process / "vmstat"): 3}
    (groups / "job").mkdir(parents=True)
    (groups / "job" / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 0\n")
    assert memory_kills(process, groups) == {str(process / "vmstat"): 3}
    (process / "self" / "cgroup").write_text("0::/job\n")
    assert memory_kills(process, groups) == {str(groups / "job" / "memory.events"): 1}


def test_ranks_that_were_ended_since_one_hung_are_of_that_class() -> None:
    tail = summary((0, -9), (1, -9))
    assert judge(Evidence(1, tail, hung="rank 1 finished no pass for 300 s")) == ("hung", "rank 1 finished no pass for 300 s")
    assert judge(Evidence(1, tail, hung="rank 1", memory_kills=True))[0] == "hung"
    assert judge(Evidence(1, tail))[0] == "infrastructure"
