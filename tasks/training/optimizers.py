"""AdamW in the forms that can be asked for."""

from typing import Any

from tasks.contracts import HardwarePlan
from tasks.training.spec import Optimizer, TrainingSpec


def check_optimizer(optimizer: Optimizer, accelerator: str) -> str:
    """Why `optimizer` does not work on this kind of device; "" where it does."""
    if optimizer == "paged_adamw_8bit" and accelerator != "cuda":
        return (
            "training.advanced.optimizer is paged_adamw_8bit, which moves its states between a GPU and main memory, but no GPU "
            "was found. Use adamw_8bit, or adamw."
        )
    return ""


def check_group(optimizer: Optimizer, machines: int, least: int, stage: int | str) -> str:
    """Why a group of machines that may lose some cannot use `optimizer`; "" where it can.

    Args:
        optimizer: the kind that was asked for.
        machines: of the group.
        least: without which it waits.
        stage: of ZeRO, or auto, which is 2 or 3 where there are several devices.
    """
    if optimizer == "adamw" or stage == 0 or max(1, least) >= machines:
        return ""
    return (
        f"training.advanced.optimizer is {optimizer}, but where a machine is lost the others go on with moments divided anew, "
        f"which those in 8 bits cannot be. Set resources.least_nodes: {machines}, so that training waits for it, or use adamw."
    )


def make_optimizer(learned: list[Any], plan: HardwarePlan, spec: TrainingSpec, peak_rate: float) -> Any:
    """AdamW over `learned` (Loshchilov & Hutter 2019), in the form that was asked for.

    8 bits: the moments are quantized in blocks (Dettmers et al. 2022, section 2); paged: the driver moves them to main memory
    where a GPU is full.
    """
    import torch

    advanced = spec.advanced
    settings: dict[str, Any] = {
        "lr": peak_rate, "betas": (advanced.beta1, advanced.beta2), "eps": 1e-8, "weight_decay": advanced.weight_decay,
    }  # fmt: skip
    if advanced.optimizer != "adamw":
        import bitsandbytes

        paged = advanced.optimizer == "paged_adamw_8bit"
        return (bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit)(learned, **settings)
    if plan.offload != "none" and plan.zero_stage > 0 and plan.accelerator == "cuda":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(learned, adamw_mode=True, **settings)  # torch's own is several times slower on a CPU
    # One kernel for all of a step: measured on a CPU, a third of the time over 5 million weights, and the same bits each time.
    return torch.optim.AdamW(learned, fused=plan.offload == "none", **settings)
