"""Which kernels compute attention and the small layers of a model: fused ones on GPUs where they are installed."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tasks.contracts import HardwarePlan

_MORE = 'pip install --no-build-isolation -c requirements.lock -e ".[gpu]" brings it'


@dataclass(frozen=True)
class Kernels:
    """What was chosen.

    Attributes:
        attention: the name that transformers has for it.
        fused: whether Liger's norms, rotations and gates take the place of the model's own.
        reasons: a sentence for each choice.
    """

    attention: str
    fused: bool
    reasons: tuple[str, ...]


def choose(plan: HardwarePlan) -> Kernels:
    """The kernels for a device, and why."""
    if plan.accelerator == "cpu":
        return Kernels("sdpa", False, ("attention by torch (sdpa): flash attention and Liger are for GPUs",))
    if plan.precision == "fp32":
        attention, why = "sdpa", "attention by torch (sdpa): flash attention computes in 16 bits, and this training in fp32"
    elif find_spec("flash_attn") is None:
        attention, why = "sdpa", f"attention by torch (sdpa): the package flash-attn is not installed; {_MORE}"
    else:
        attention, why = "flash_attention_2", "flash attention: it is installed, and computes no attention between documents"
    fused = find_spec("liger_kernel") is not None
    also = "is installed" if fused else f"is not installed; {_MORE}"
    return Kernels(attention, fused, (why, f"{'fused' if fused else 'plain'} norms, rotations and gates: Liger {also}"))


def fit(model: Any, plan: HardwarePlan) -> None:
    """Give `model` the kernels of its device; an architecture that knows none of them stays as it is."""
    kernels = choose(plan)
    if kernels.fused:
        # The loss is computed in chunks by this project itself.
        liger = import_module("liger_kernel.transformers")
        liger._apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
    if kernels.attention != "sdpa":
        try:
            model.set_attn_implementation(kernels.attention)
        except (ValueError, ImportError):
            model.set_attn_implementation("sdpa")


def told(model: Any, plan: HardwarePlan) -> tuple[str, ...]:
    """A sentence for each choice, as it came out for `model`."""
    kernels, found = choose(plan), str(getattr(getattr(model, "config", None), "_attn_implementation", "the model's own"))
    if found == kernels.attention:
        return kernels.reasons
    return (f"attention by {found}: {type(model).__name__} does not go with {kernels.attention}", *kernels.reasons[1:])
