"""What this machine has, found without loading a model."""

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Machine:
    """Devices of one machine; memory is per device for GPUs and for the whole machine for a CPU."""

    accelerator: Literal["cpu", "cuda"]
    name: str
    devices: int
    memory_gib: float
    cores: int
    has_bf16: bool
    host_gib: float = 0.0  # main memory of the whole machine; 0: nobody looked


def find_machine() -> Machine:
    """This machine: its GPUs where torch sees any, else its CPU."""
    cores = len(os.sched_getaffinity(0))
    if not _may_have_gpu():  # spares the import of torch
        return Machine("cpu", _cpu_name(), 1, _memory_gib(), cores, _cpu_has_bf16(), _memory_gib())
    import torch

    if not torch.cuda.is_available():
        return Machine("cpu", _cpu_name(), 1, _memory_gib(), cores, _cpu_has_bf16(), _memory_gib())
    properties = torch.cuda.get_device_properties(0)
    memory = properties.total_memory / 2**30
    bf16 = torch.cuda.get_device_capability(0) >= (8, 0)
    return Machine("cuda", properties.name, torch.cuda.device_count(), memory, cores, bf16, _memory_gib())


def _may_have_gpu() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()


def _memory_gib() -> float:
    """Memory that this process may use: the machine's, or its control group's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no limit is set
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total / 2**30


def _cpu_lines(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _cpu_name() -> str:
    return _cpu_lines("model name") or platform.processor() or "CPU"


def _cpu_has_bf16() -> bool:
    flags = _cpu_lines("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
