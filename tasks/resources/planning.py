"""The plan of a training: each choice with the sentence that explains it."""

from collections.abc import Sequence
from typing import Literal

from tasks.contracts import HardwarePlan, ModelRef
from tasks.errors import RequestError
from tasks.resources import cost, memory
from tasks.resources.hardware import Machine
from tasks.resources.spec import ResourceSpec

Precision = Literal["fp32", "bf16", "fp16"]
Stage = Literal[0, 1, 2, 3]
_USABLE = 0.9  # share of a device's memory that a plan may fill


def choose_devices(spec: ResourceSpec, machine: Machine) -> tuple[int, str]:
    """How many processes train, and why.

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


def choose_stage(spec: ResourceSpec, base: ModelRef, precision: Precision, machine: Machine, devices: int) -> tuple[Stage, str]:
    """DeepSpeed's ZeRO stage, and why."""
    if spec.zero_stage != "auto":
        return spec.zero_stage, f"ZeRO {spec.zero_stage}: as asked"
    if devices == 1:
        return 0, "ZeRO 0: one device has nothing to divide"
    weights = memory.weights_gib(base, precision)
    if weights > 0.5 * machine.memory_gib:
        return 3, f"ZeRO 3: the weights ({weights:.1f} GiB) fill more than half of a device ({machine.memory_gib:.0f} GiB)"
    return 2, "ZeRO 2: gradients and optimizer states are divided; the weights fit on each device"


def choose_micro_batch(asked: int, share: int, longest: int, needed: "_Need", limit_gib: float) -> tuple[int, str]:
    """Sequences a device computes at once, and why.

    Args:
        asked: the request's value; 0 for automatic.
        share: sequences a device has in one optimizer step.
        longest: tokens of the longest sequence.
        needed: GiB as a function of the micro-batch.
        limit_gib: memory that may be used.
    """
    if asked:
        return min(asked, share), f"micro-batch {min(asked, share)}: as asked" + (
            ", cut to a device's share" if asked > share else ""
        )
    size = share
    while size > 1 and needed(size) > limit_gib:
        size = (size + 1) // 2
    reason = f"micro-batch {size}: about {needed(size):.2f} GiB of {limit_gib:.1f} GiB, sequences of up to {longest} tokens"
    return size, reason


class _Need:
    """GiB as a function of the micro-batch."""

    def __init__(self, base: ModelRef, trainable: int, plan: tuple[str, int, int, str, bool], length: int) -> None:
        self.base, self.trainable, self.plan, self.length = base, trainable, plan, length

    def __call__(self, micro_batch: int) -> float:
        precision, stage, devices, accelerator, checkpointing = self.plan
        return memory.training_gib(
            self.base, self.trainable, precision, stage, devices, micro_batch, self.length, accelerator, checkpointing
        )


def plan_training(
    spec: ResourceSpec,
    machine: Machine,
    base: ModelRef,
    *,
    trainable: int,
    batch_size: int,
    micro_batch_size: int,
    longest: int,
    tokens: int,
    activation_checkpointing: bool,
    rate: float | None = None,
    more_reasons: Sequence[str] = (),
) -> HardwarePlan:
    """Everything that is decided before a training starts.

    Args:
        spec: what was asked.
        machine: what there is.
        base: the model.
        trainable: weights that learn.
        batch_size: sequences of an optimizer step.
        micro_batch_size: sequences of a pass; 0 for automatic.
        longest: tokens of the longest sequence.
        tokens: tokens of the whole training.
        activation_checkpointing: whether activations are computed twice.
        rate: operations a second of one device; None measures it.
        more_reasons: sentences of choices made elsewhere.

    Raises:
        RequestError: what was asked for is not there, or does not fit.
    """
    devices, why_devices = choose_devices(spec, machine)
    precision, why_precision = choose_precision(spec, machine)
    stage, why_stage = choose_stage(spec, base, precision, machine, devices)
    accelerator: Literal["cpu", "cuda"] = "cuda" if machine.accelerator == "cuda" else "cpu"
    limit = _USABLE * (machine.memory_gib / (1 if accelerator == "cuda" else devices))
    share = -(-batch_size // devices)
    need = _Need(base, trainable, (precision, stage, devices, accelerator, activation_checkpointing), longest)
    micro, why_micro = choose_micro_batch(micro_batch_size, share, longest, need, limit)
    if need(micro) > limit:
        raise RequestError(
            f"Training needs about {need(micro):.1f} GiB a device, and {limit:.1f} GiB can be used. Try method.kind: lora, "
            f"a smaller training.max_length or micro_batch_size, training.advanced.activation_checkpointing, or more devices."
        )
    price = cost.forecast(
        base, trainable, tokens, devices, rate or cost.measure_rate(accelerator, precision), spec, accelerator
    )
    backend: Literal["gloo", "nccl"] = "nccl" if accelerator == "cuda" else "gloo"
    return HardwarePlan(
        accelerator=accelerator, device_name=machine.name, devices=devices, backend=backend,
        threads=max(1, machine.cores // devices), zero_stage=stage, micro_batch=micro, accumulation=-(-share // micro),
        precision=precision, activation_checkpointing=activation_checkpointing, memory_gib=need(micro),
        hours=price.hours, cost_usd=price.cost_usd, energy_kwh=price.energy_kwh,
        reasons=(
            why_devices, why_precision, why_stage, why_micro,
            f"{backend}: the transport of {'GPUs' if accelerator == 'cuda' else 'CPU processes'}", *more_reasons,
        ),
    )  # fmt: skip
