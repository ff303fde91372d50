"""Choices that depend on the request and the machine alone, each with the sentence that explains it."""

from typing import Literal

from tasks.errors import RequestError
from tasks.resources.hardware import Machine
from tasks.resources.spec import ResourceSpec

Precision = Literal["fp32", "bf16", "fp16"]
Stage = Literal[0, 1, 2, 3]


def choose_devices(spec: ResourceSpec, machine: Machine) -> tuple[int, str]:
    """How many processes train on each machine, and why.

    Raises:
        RequestError: more GPUs were asked for than there are, or more CPU processes than cores.
    """
    if spec.devices == "auto":
        if machine.accelerator == "cuda":
            return machine.devices, f"{machine.devices} device(s): every {machine.name} of this machine"
        return 1, f"1 device: no GPU was found; one process uses all {machine.cores} cores"
    limit, what = (machine.devices, "GPU(s)") if machine.accelerator == "cuda" else (machine.cores, "CPU core(s)")
    if not 1 <= spec.devices <= limit:
        raise RequestError(
            f"resources.devices is {spec.devices}, but this machine has {limit} {what}. Use 1 to {limit}, or auto."
        )
    return spec.devices, f"{spec.devices} device(s): as asked"


def choose_nodes(spec: ResourceSpec) -> tuple[int, str]:
    """How many machines train together, and why; they are taken to be like this one."""
    if spec.hosts:
        least = f"; training waits where fewer than {spec.least_nodes} are left" if spec.least_nodes > 1 else ""
        return spec.machines, f"{spec.machines} machine(s): the hosts {', '.join(spec.hosts)}, taken to be like this one{least}"
    if spec.nodes > 1:
        return spec.nodes, f"{spec.nodes} machines: as asked, taken to be like this one"
    return 1, ""


def demand_hosts(spec: ResourceSpec) -> None:
    """Refuse several machines that nobody named; a plan for them can be made all the same.

    Raises:
        RequestError: there are no names by which they could be reached.
    """
    if spec.machines > 1 and not spec.hosts:
        raise RequestError(
            f"resources.nodes is {spec.nodes}, but resources.hosts names no machine. Name {spec.nodes} as ssh knows them, e.g. "
            f"hosts: [gpu-1, gpu-2], or leave nodes out to train on this one."
        )


def choose_precision(spec: ResourceSpec, machine: Machine) -> tuple[Precision, str]:
    """The number format of weights and arithmetic, and why.

    Raises:
        RequestError: fp16 was asked for on a CPU.
    """
    if spec.precision == "fp16" and machine.accelerator == "cpu":
        raise RequestError("resources.precision is fp16, which CPUs do not train in. Use fp32, bf16 or auto.")
    if spec.precision != "auto":
        return spec.precision, f"{spec.precision}: as asked"
    if machine.accelerator == "cuda":
        if machine.has_bf16:
            return "bf16", f"bf16: {machine.name} has bf16 units"
        return "fp32", f"fp32: {machine.name} has no bf16 units, and fp16 would need loss scaling"
    units = "has bf16 units, but small models gain little and lose digits" if machine.has_bf16 else "has no bf16 units"
    return "fp32", f"fp32: {machine.name} {units}"


def possible_stages(spec: ResourceSpec, most: int, why_not: str, devices: int) -> tuple[Stage, ...]:
    """ZeRO stages that may be tried, the fastest first; on one device those above 0 divide nothing, but allow offloading.

    Args:
        spec: what was asked.
        most: the highest that the method works with.
        why_not: why not more.
        devices: in all.

    Raises:
        RequestError: the stage that was asked for does not work with the method.
    """
    if spec.zero_stage != "auto":
        if spec.zero_stage > most:
            raise RequestError(f"resources.zero_stage is {spec.zero_stage}, but at most {most} works here: {why_not}.")
        return (spec.zero_stage,)
    usual: tuple[Stage, ...] = (0, 2, 3) if devices == 1 else (2, 3)
    return tuple(stage for stage in usual if stage <= most)


def demand_sensible(spec: ResourceSpec, machine: Machine) -> None:
    """Refuse what cannot be done on this machine, whatever is trained.

    Raises:
        RequestError: of the offload.
    """
    if spec.offload in ("cpu", "nvme") and machine.accelerator == "cpu":
        raise RequestError(f"resources.offload is {spec.offload}, but there is no GPU to take anything off. Use none or auto.")
    if spec.offload in ("cpu", "nvme") and spec.zero_stage == 0:
        raise RequestError(f"resources.offload {spec.offload} needs ZeRO 1 to 3, and resources.zero_stage is 0. Use auto.")
    if spec.offload == "nvme" and spec.zero_stage in (1, 2):
        raise RequestError("resources.offload nvme needs ZeRO 3. Use resources.zero_stage: 3 or auto.")


def stage_sentence(spec: ResourceSpec, stage: Stage, devices: int, tighter: str) -> str:
    """Why this stage; `tighter` says what less dividing would have needed."""
    if spec.zero_stage != "auto":
        return f"ZeRO {stage}: as asked"
    if stage == 0:
        what = "device has nothing" if spec.tensor_parallel == 1 else "group of devices has nothing more"
        return f"ZeRO 0: one {what} to divide"
    if stage == 1:
        return "ZeRO 1: in 16 bits, and with layers divided among devices, the norm of the gradient is right from it on"
    if devices == 1:
        return f"ZeRO {stage}: offloading goes with it"
    if stage == 3:
        return f"ZeRO 3: weights are divided as well{tighter}"
    return f"ZeRO {stage}: gradients and optimizer states are divided; the weights fit on each device"
