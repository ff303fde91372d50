"""The same bits each time: what is set before a model is built on a GPU, and what a CPU does anyway."""

import os

from tasks.contracts import HardwarePlan
from tasks.training.spec import TrainingSpec


def settle(spec: TrainingSpec, plan: HardwarePlan) -> str:
    """Have the same request give the same bits, where that is asked; what holds then, "" where it is not asked.

    Must be called before the first use of a GPU.
    """
    if not spec.deterministic:
        return ""
    if plan.accelerator == "cpu":
        return "deterministic: on a CPU the same request gives the same bits anyway"
    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts; without it torch refuses its products
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"  # read by transformers
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    return "deterministic: only kernels that give the same bits each time, which are slower; another kind of GPU gives others"
