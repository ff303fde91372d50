"""How much memory a training needs on one device."""

from tasks.contracts import ModelRef

_GIB = 2**30
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_OVERHEAD_GIB = {"cpu": 0.6, "cuda": 1.5}  # interpreter and libraries; CUDA context and fragmentation


def weights_gib(base: ModelRef, precision: str) -> float:
    """The weights alone."""
    return base.parameters * BYTES[precision] / _GIB


def training_gib(
    base: ModelRef,
    trainable: int,
    precision: str,
    zero_stage: int,
    devices: int,
    micro_batch: int,
    length: int,
    accelerator: str,
    checkpointing: bool,
) -> float:
    """Forecast of the peak on one device, in GiB.

    Weights, gradients and Adam's states after Rajbhandari et al. 2020 (ZeRO, section 3.1), each divided by the devices from its
    stage on; activations after Korthikanti et al. 2022 (section 4.1: about 34 values of 2 bytes a token, layer and hidden unit)
    and the logits in fp32 with their gradient.
    """
    size = BYTES[precision]
    states = trainable * (8 if size == 4 else 12)  # two moments in fp32, and a fp32 copy of 16-bit weights
    gradients = trainable * size
    weights = base.parameters * size
    total = (
        weights / (devices if zero_stage >= 3 else 1)
        + gradients / (devices if zero_stage >= 2 else 1)
        + states / (devices if zero_stage >= 1 else 1)
    )
    values = 2 if checkpointing else 34 * size / 2
    activations = micro_batch * length * base.layers * base.hidden_size * values
    logits = micro_batch * length * base.vocabulary * (size + 8)
    return (total + activations + logits) / _GIB + _OVERHEAD_GIB[accelerator]
