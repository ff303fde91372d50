"""DeepSpeed's engine: its configuration, and what must be switched off before it starts on a CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.contracts import HardwarePlan
from tasks.training.optimizers import make_optimizer
from tasks.training.spec import TrainingSpec


def configuration(plan: HardwarePlan, spec: TrainingSpec) -> dict[str, Any]:
    """DeepSpeed's configuration as a dictionary."""
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": spec.advanced.clip_norm,
        "zero_optimization": {"stage": plan.zero_stage, **_offload(plan)},
        "zero_allow_untested_optimizer": True,  # those in 8 bits
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": plan.precision == "bf16"},
        "fp16": {"enabled": plan.precision == "fp16"},
        **_divided_layers(plan),
        # The loss is summed and divided by the tokens of the whole batch by the loop itself.
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _divided_layers(plan: HardwarePlan) -> dict[str, Any]:
    """Linear layers divided among devices (Shoeybi et al. 2019, Megatron-LM, section 3), as the model's own plan says."""
    if plan.tensor_parallel == 1:
        return {}
    # Every device needs all logits of its rows for the loss.
    return {"tensor_parallel": {"autotp_size": plan.tensor_parallel, "vocab_parallel_lm_head": False}}


def _offload(plan: HardwarePlan) -> dict[str, Any]:
    """Where the optimizer's states lie and, under ZeRO 3, the weights (Rajbhandari et al. 2021, section 5)."""
    if plan.offload == "none" or plan.zero_stage == 0:
        return {}
    place: dict[str, Any] = {"device": plan.offload, "pin_memory": plan.accelerator == "cuda"}
    if plan.offload == "nvme":
        place["nvme_path"] = plan.offload_folder
    return {"offload_optimizer": place, **({"offload_param": place} if plan.zero_stage == 3 else {})}


def start_processes(plan: HardwarePlan) -> None:
    """Join the process group of this training."""
    import deepspeed
    import torch

    torch.set_num_threads(plan.threads)
    if plan.accelerator == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        # Its compilation takes minutes without a word, and a kill meanwhile leaves a lock that hangs every later start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=plan.backend, verbose=False)


@contextmanager
def announced(config: dict[str, Any]) -> Iterator[None]:
    """A context in which transformers knows of DeepSpeed: under ZeRO 3 each rank then keeps its part of what is read."""
    from transformers.integrations import HfDeepSpeedConfig

    held = HfDeepSpeedConfig(config)  # transformers sees it for as long as it lives
    yield
    del held


def start(model: Any, config: dict[str, Any], plan: HardwarePlan, spec: TrainingSpec, peak_rate: float) -> Any:
    """The engine around `model`, optimizing what requires a gradient."""
    import deepspeed

    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=learned, optimizer=make_optimizer(learned, plan, spec, peak_rate), config=config
    )
    return engine


@contextmanager
def whole_parameters(engine: Any, plan: HardwarePlan) -> Iterator[None]:
    """A context in which what learns is whole on rank 0, in main memory; every rank must enter it.

    Divided weights are put together one by one, so that a device need not hold more than one of them.
    """
    if plan.zero_stage < 3 and plan.tensor_parallel == 1:
        yield
        return
    whole = _from_groups(engine) if plan.tensor_parallel > 1 else _from_zero(engine)
    divided = [parameter.data for parameter, _ in whole]
    try:
        for parameter, data in whole:
            parameter.data = data
        yield
    finally:
        for (parameter, _), data in zip(whole, divided, strict=True):
            parameter.data = data


def _from_zero(engine: Any) -> list[tuple[Any, Any]]:
    """Each weight that learns with all of its numbers, on rank 0, where ZeRO 3 divides them."""
    import deepspeed
    import torch.distributed as dist

    whole: list[tuple[Any, Any]] = []
    for parameter in engine.module.parameters():
        if parameter.requires_grad:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=None):
                if dist.get_rank() == 0:
                    whole.append((parameter, parameter.data.to("cpu", copy=True)))
    return whole


def _from_groups(engine: Any) -> list[tuple[Any, Any]]:
    """The same of the linear layers that tensor parallelism divides; what else there is, rank 0 has whole."""
    import torch.distributed as dist
    from deepspeed.module_inject.layers import DS_IS_REPLACED_MODULE, GatherReplacedLayerParams

    whole: list[tuple[Any, Any]] = []
    for layer in engine.module.modules():
        own = list(layer.parameters(recurse=False))
        if not any(getattr(parameter, DS_IS_REPLACED_MODULE, False) for parameter in own):
            continue
        parts = [parameter.data for parameter in own]
        with GatherReplacedLayerParams(own, layer):
            if dist.get_rank() == 0:
                whole += [(parameter, parameter.data.to("cpu", copy=True)) for parameter in own]
        for parameter, part in zip(own, parts, strict=True):
            parameter.data = part  # the memory that the optimizer writes to, and not a copy of it
    return whole
