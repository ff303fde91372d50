"""DeepSpeed's engine: its configuration, and the three things that must be switched off before it starts on a CPU."""

import os
from typing import Any

from tasks.contracts import HardwarePlan
from tasks.training.spec import TrainingSpec


def configuration(plan: HardwarePlan, spec: TrainingSpec, peak_rate: float) -> dict[str, Any]:
    """DeepSpeed's configuration as a dictionary."""
    advanced = spec.advanced
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": advanced.clip_norm,
        "zero_optimization": {"stage": plan.zero_stage},
        "bf16": {"enabled": plan.precision == "bf16"},
        "fp16": {"enabled": plan.precision == "fp16"},
        # The loss is summed and divided by the tokens of the whole batch by the loop itself.
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": peak_rate,
                "betas": [advanced.beta1, advanced.beta2],
                "eps": 1e-8,
                "weight_decay": advanced.weight_decay,
                "torch_adam": True,  # DeepSpeed's own CPU Adam compiles for minutes at the first start
            },
        },
    }


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


def start(model: Any, config: dict[str, Any]) -> Any:
    """The engine around `model`, optimizing what requires a gradient."""
    import deepspeed

    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=learned, config=config)
    return engine


def whole_parameters(engine: Any, plan: HardwarePlan) -> Any:
    """A context in which every parameter is whole on every rank; needed under ZeRO 3 alone."""
    from contextlib import nullcontext

    if plan.zero_stage < 3:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(engine.module.parameters()), modifier_rank=None)
