"""Tensor parallelism: linear layers divided among devices of one machine; what that needs, and what stays whole."""

import re
from typing import TYPE_CHECKING, Any

from tasks.contracts import ModelRef
from tasks.errors import RequestError
from tasks.resources import choices
from tasks.resources.hardware import Machine
from tasks.resources.spec import ResourceSpec

if TYPE_CHECKING:
    from tasks.resources.footprint import Method, Weights

# Words of a model's own plan in transformers: those that divide a layer, and all that DeepSpeed follows.
_DIVIDING = {"colwise", "rowwise", "colwise_rep", "colwise_gather_output"}
_FOLLOWED = _DIVIDING | {"replicated_with_grad_allreduce", "embedding_rowwise"}
_HEADS = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
_INSTEAD = "Leave resources.tensor_parallel out; ZeRO divides as well"


def demand_groups(spec: ResourceSpec, method: "Method", machine: Machine) -> None:
    """Refuse what does not go with tensor parallelism.

    Raises:
        RequestError: the devices make no whole groups, or the method or what else is divided does not allow it.
    """
    if spec.tensor_parallel == 1:
        return
    each, _ = choices.choose_devices(spec, machine)
    precision, _ = choices.choose_precision(spec, machine)
    if problems := group_problems(spec, method, each, precision):
        raise RequestError(" ".join(problems))


def group_problems(spec: ResourceSpec, method: "Method", each: int, precision: str) -> list[str]:
    """Why `each` devices of every machine cannot train so in `precision`, a sentence for each reason."""
    size, problems = spec.tensor_parallel, []
    if size == 1:
        return []
    asked = f"resources.tensor_parallel is {size}"
    if each % size:
        groups = f"{asked}, but {each} device(s) of a machine train, which make no whole groups of {size}"
        reach = "; a group does not reach over machines" if spec.machines > 1 else ""
        problems.append(f"{groups}{reach}. Use a number that divides {each}, or other resources.devices.")
    if method.adapter:
        problems.append(
            f"{asked}, but DeepSpeed does not divide the layers of an adapter, and method.kind is {method.kind}. Use "
            "method.kind: full, or leave resources.tensor_parallel out."
        )
    if spec.zero_stage == 3:
        problems.append(f"{asked}, and resources.zero_stage 3 divides the same weights once more. Use 0, 1, 2 or auto.")
    if spec.zero_stage == 0 and precision != "fp32":
        problems.append(
            f"{asked}, and with resources.zero_stage 0 DeepSpeed gets the norm of the gradient wrong in {precision}. Use 1, 2 "
            "or auto, or resources.precision: fp32."
        )
    if spec.offload in ("cpu", "nvme"):
        problems.append(f"{asked}, which does not go with resources.offload {spec.offload}. Use none or auto.")
    return problems


def group_stages(spec: ResourceSpec, precision: str, groups: int) -> tuple[choices.Stage, ...]:
    """ZeRO stages that may be tried, the fastest first; in 16 bits the norm of the gradient is right from stage 1 on."""
    if spec.zero_stage != "auto":
        return (spec.zero_stage,)
    if groups > 1:
        return (2,)
    return (0,) if precision == "fp32" else (1,)


def demand_heads(spec: ResourceSpec, base: ModelRef) -> None:
    """Refuse a model that cannot be divided so.

    Raises:
        RequestError: it has no plan that DeepSpeed follows, or heads or units that cannot be dealt out evenly.
    """
    size = spec.tensor_parallel
    if size == 1:
        return
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base.location, trust_remote_code=base.trust_remote_code, local_files_only=True)
    plan, own = getattr(config, "base_model_tp_plan", None) or {}, config.get_text_config()
    if not plan or not _DIVIDING & set(plan.values()):
        raise RequestError(
            f"resources.tensor_parallel is {size}, but transformers has no plan of how the layers of {base.architecture} are "
            f"divided. {_INSTEAD}."
        )
    if unknown := sorted(set(plan.values()) - _FOLLOWED):
        raise RequestError(
            f"resources.tensor_parallel is {size}, but the layers of {base.architecture} are divided in ways that DeepSpeed "
            f"does not know ({', '.join(unknown)}). {_INSTEAD}."
        )
    counts = {name: getattr(own, name, None) for name in _HEADS}
    uneven = [f"{name} {count}" for name, count in counts.items() if isinstance(count, int) and count % size]
    if uneven:
        raise RequestError(
            f"resources.tensor_parallel is {size}, by which {', '.join(uneven)} of {base.uri} cannot be divided. Use a number "
            f"that divides {', '.join(f'{name} {count}' for name, count in counts.items() if isinstance(count, int))}."
        )


def divided_layers(model: Any) -> list[Any]:
    """The linear layers of `model` that are divided: those of its plan, but a head that shares the embeddings' weights."""
    import torch

    plan = {**(getattr(model.config, "base_model_tp_plan", None) or {}), **(getattr(type(model), "_tp_plan", None) or {})}
    # As DeepSpeed reads it: a star is anything.
    named = [re.compile(".*" + re.escape(name).replace(r"\*", ".*")) for name, how in plan.items() if how in _DIVIDING]
    shared = model.get_input_embeddings().weight
    return [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer.weight is not shared and any(each.fullmatch(name) for each in named)
    ]


def group_sentence(weights: "Weights", size: int, groups: int) -> str:
    """What is divided among how many, and what is not."""
    whole = "embeddings, norms and the head" if weights.whole_head else "embeddings and norms"
    return (
        f"tensor parallelism {size}: as asked; {groups} group(s) of {size} devices have rows of their own, and each device "
        f"1/{size} of {weights.divided:,} weights of linear layers; {whole} are whole on each"
    )
