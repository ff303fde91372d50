"""Which GPUs there are, and the groups into which they are put: one worker and one run at a time for each group."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import InputError

STAND_IN = "cpu"
_DEVICE = re.compile(r"\d+|(?:GPU|MIG)-[\w/-]+")


@dataclass(frozen=True)
class Group:
    """The devices of one GPU worker; none for a stand-in, which computes on the CPU.

    Args:
        name: of its worker.
        devices: indices or identifiers, as CUDA_VISIBLE_DEVICES takes them.
        stand_in: what names the stand-in; "" for real devices.
    """

    name: str
    devices: tuple[str, ...] = ()
    stand_in: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """What tells a run which devices are its own."""
        variables = {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)}
        return variables | ({"TUNEFLOW_STAND_IN": self.stand_in} if self.stand_in else {})

    @property
    def size(self) -> int:
        """Number of devices; a stand-in counts as one."""
        return len(self.devices) or 1


def devices_here() -> list[str]:
    """The GPUs of this machine that its user may use: CUDA_VISIBLE_DEVICES where it is set, else all."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device.strip() for device in chosen.split(",") if _DEVICE.fullmatch(device.strip())]
    return [str(number) for number in range(_count())]


def groups_of(asked: Sequence[str], here: Sequence[str]) -> list[Group]:
    """The groups that were asked for; without any, one of all devices, or one stand-in where there are none.

    Raises:
        InputError: a device is not there, stands twice, or is not a device's name.
    """
    groups: list[Group] = []
    seen: set[str] = set()
    for text in asked or ([",".join(here)] if here else [STAND_IN]):
        if text.strip() == STAND_IN:
            number = 1 + sum(bool(group.stand_in) for group in groups)
            groups.append(Group(f"gpu-stand-in-{number}", stand_in=f"stand-in-{number}"))
            continue
        devices = tuple(device.strip() for device in text.split(","))
        for device in devices:
            _check(device, text, seen, here)
            seen.add(device)
        groups.append(Group(f"gpu-{devices[0].replace('/', '-')}", devices))
    return groups


def _check(device: str, text: str, seen: set[str], here: Sequence[str]) -> None:
    if not _DEVICE.fullmatch(device):
        raise InputError(f"--gpu-group {text!r}: {device!r} is not a device. Expected numbers such as 0 or 0,1, or {STAND_IN}.")
    if device in seen:
        raise InputError(f"--gpu-group {text!r}: device {device} is in two groups or stands twice. Each belongs to one.")
    if device.isdigit() and device not in here:
        found = f"has {', '.join(here)}" if here else f"has none; --gpu-group {STAND_IN} computes on the CPU instead"
        raise InputError(f"--gpu-group {text!r}: there is no GPU {device}. This machine {found}.")


def _count() -> int:
    program = shutil.which("nvidia-smi")
    if program:
        try:
            done = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done and done.returncode == 0:
            return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])
