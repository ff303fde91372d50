"""How much memory a training needs on one device, and beside it in main memory."""

from dataclasses import astuple, dataclass, replace
from typing import Literal

from tasks.contracts import ModelRef
from tasks.resources.footprint import BYTES, Footprint, Moment, Weights

GIB = 2**30
Offload = Literal["none", "cpu", "nvme"]
# Interpreter and libraries of a rank (measured); CUDA's context, NCCL's buffers and what the allocator loses in fragments.
_LIBRARIES_GIB = {"cpu": 0.62, "cuda": 2.0}
_PEFT_GIB = 0.06
# What the allocator holds beside what is alive, as a share of activations: glibc's heap measured, CUDA's by judgement.
_FRAGMENTS = {"cpu": 1.0, "cuda": 0.05}
# The same where activations are computed twice, as a share of those of a pass without that: glibc's heap has been as large.
_FRAGMENTS_AGAIN = 0.8
# DeepSpeed's zero_optimization: reduce_bucket_size, stage3_max_live_parameters and stage3_prefetch_bucket_size, in weights.
_BUCKET, _LIVE, _PREFETCH = 500_000_000, 1_000_000_000, 50_000_000
NO_ROWS = Moment(0, 0)
# NF4 with double quantization: 4 bits, and 8 + 32 / 256 bits for each block of 64 (Dettmers et al. 2023, section 3).
NF4_BYTES = 0.5 + (1 + 4 / 256) / 64


@dataclass(frozen=True)
class Setup:
    """What the memory of a training depends on, beside its model and method.

    Attributes:
        accelerator: cpu or cuda.
        precision: fp32, bf16 or fp16.
        zero_stage: what is divided among the devices.
        devices: how many there are in all.
        rows: of a micro-batch.
        accumulation: micro-batches of an optimizer step.
        length: tokens of the longest row.
        checkpointing: whether activations are computed twice.
        offload: where the optimizer's states lie, and under ZeRO 3 the weights.
        quantized: whether frozen linear layers are stored in 4 bits.
        moment_bytes: of the optimizer's two moments, for a weight that learns.
        share: rows that a device has in one optimizer step.
        rows_are_asked: whether the request says how many rows a micro-batch has.
        tensor_parallel: devices that divide linear layers among them.
    """

    accelerator: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2, 3] = 0
    devices: int = 1
    rows: int = 1
    accumulation: int = 1
    length: int = 1024
    checkpointing: bool = False
    offload: Offload = "none"
    quantized: bool = False
    moment_bytes: int = 8
    share: int = 1
    rows_are_asked: bool = False
    tensor_parallel: int = 1

    @property
    def groups(self) -> int:
        """Of devices that hold one model together; what ZeRO divides is divided among them."""
        return self.devices // self.tensor_parallel


@dataclass(frozen=True)
class Parts:
    """GiB on one device at the fullest moment, by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float
    libraries: float

    @property
    def total(self) -> float:
        """All together."""
        return float(sum(astuple(self)))

    def sentence(self) -> str:
        """What holds the memory, largest first."""
        parts = {name: gib for name, gib in vars(self).items() if gib >= 0.005}
        ordered = sorted(parts.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {gib:.2f}" for name, gib in ordered)


def weights_gib(base: ModelRef, precision: str) -> float:
    """The weights alone."""
    return base.parameters * BYTES[precision] / GIB


def needed(footprint: Footprint, setup: Setup, moment: Moment | None = None) -> Parts:
    """Forecast of the peak on one device.

    Weights, gradients and Adam's states after Rajbhandari et al. 2020 (ZeRO, section 3.1), each divided by the devices from its
    stage on; under offload (Rajbhandari et al. 2021, ZeRO-Infinity, section 5) they lie elsewhere. Activations and gradients of
    a pass are traced, unless `moment` says what they are. Under tensor parallelism a device holds its part of linear layers;
    activations are counted whole, though some are divided too.
    """
    size, count = BYTES[setup.precision], on_device(footprint.weights, setup)
    share = [1 / setup.groups if setup.zero_stage >= stage else 1.0 for stage in (0, 1, 2, 3)]
    from_hidden = setup.zero_stage < 3 and setup.precision != "fp16" and (setup.tensor_parallel == 1 or count.whole_head)
    moment = moment or footprint.at(setup.rows, setup.length, setup.checkpointing, from_hidden, setup.accelerator)
    away, weights_away = setup.offload != "none", setup.offload != "none" and setup.zero_stage == 3
    stored = 0.0 if weights_away else stored_bytes(footprint, setup) * share[3]
    states = 0.0 if away else count.trainable * (setup.moment_bytes + (4 if size < 4 else 0)) * share[1]
    gradients = count.trainable * size
    if setup.zero_stage >= 2:
        kept = 0.0 if away else gradients * share[2]
        in_pass, at_step = moment.transient + kept, kept + _step_copy(setup, gradients * share[2], away)
    else:
        in_pass = moment.transient + gradients
        if setup.accumulation == 1:
            in_pass = min(in_pass, moment.whole)
        kept, at_step = min(gradients, in_pass), gradients + _step_copy(setup, gradients, away)
    peak = max(in_pass, at_step)
    buffers = _buffers(footprint, setup)
    lost = _FRAGMENTS[setup.accelerator] * (peak - kept)
    if setup.checkpointing and setup.accelerator == "cpu" and moment is not NO_ROWS:
        plain = footprint.at(setup.rows, setup.length, False, from_hidden, setup.accelerator)
        lost = _FRAGMENTS_AGAIN * plain.transient
    return Parts(
        weights=stored / GIB, gradients=kept / GIB, optimizer=states / GIB, activations=(peak - kept) / GIB,
        buffers=(buffers + lost) / GIB,
        libraries=_LIBRARIES_GIB[setup.accelerator] + (_PEFT_GIB if count.frozen and setup.accelerator == "cpu" else 0.0),
    )  # fmt: skip


def stored_bytes(footprint: Footprint, setup: Setup) -> float:
    """Bytes of a device's weights, before ZeRO divides them."""
    size, count = BYTES[setup.precision], on_device(footprint.weights, setup)
    if not setup.quantized:
        return (count.frozen + count.trainable) * size
    rest = count.frozen - count.linear  # embeddings, norms and the head
    return count.linear * NF4_BYTES + (rest + count.trainable) * size


def on_device(count: Weights, setup: Setup) -> Weights:
    """What a device holds of the weights: under tensor parallelism a part of linear layers, and the others whole."""
    if setup.tensor_parallel == 1:
        return count
    return replace(count, trainable=count.trainable - count.divided + -(-count.divided // setup.tensor_parallel))


def host_gib(footprint: Footprint, setup: Setup, devices_here: int) -> float:
    """Main memory of one machine that offloading needs: fp32 weights, moments and gradients, and the weights under ZeRO 3.

    ZeRO-Infinity (Rajbhandari et al. 2021, section 3): 16 bytes a weight that learns, and its 16-bit copy.
    """
    if setup.offload == "none":
        return 0.0
    here = devices_here / setup.devices
    weights = stored_bytes(footprint, setup) if setup.zero_stage == 3 else 0.0
    states = footprint.weights.trainable * (8.0 + setup.moment_bytes) if setup.offload == "cpu" else 0.0
    return (weights + states) * here / GIB


def _step_copy(setup: Setup, gradients: float, away: bool) -> float:
    """What the optimizer's step makes for a moment: the gradients flat, in fp32 where the weights have 16 bits."""
    if away:
        return 0.0
    flat = gradients if setup.zero_stage == 0 and setup.groups > 1 else 0.0
    return flat + (gradients * 2 if BYTES[setup.precision] < 4 else 0.0)


def _buffers(footprint: Footprint, setup: Setup) -> float:
    """What is reserved for the exchange of gradients and for gathered weights, and a layer out of its 4 bits."""
    size, count = BYTES[setup.precision], on_device(footprint.weights, setup)
    opened = count.largest_linear * size if setup.quantized else 0
    if setup.zero_stage == 0:
        return opened
    # A CPU's memory counts once it is written to, and no more is written than there are gradients.
    bucket = min(_BUCKET, count.trainable) if setup.accelerator == "cpu" else _BUCKET
    if setup.zero_stage < 3:
        return opened + bucket * size
    total = count.frozen + count.trainable
    live = min(1.0, (max(_LIVE, 2 * count.block) + _PREFETCH) / total) * stored_bytes(footprint, setup)
    return opened + bucket * size + live
