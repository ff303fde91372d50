"""What the low-rank methods share: their settings, which layers get an adapter, and how many weights that makes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from tasks.contracts import HardwarePlan, ModelRef, Spec
from tasks.errors import did_you_mean
from tasks.training.methods.driver import Driver, NoDriver

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"


class Adapted(Spec):
    """Settings of every method that puts two thin matrices beside frozen ones."""

    kind: str
    rank: int = Field(default=16, ge=1, le=1024, title="Rank", description="Inner dimension of the adapters, 1 to 1024.")
    alpha: float = Field(
        default=32.0,
        gt=0,
        le=4096,
        title="Alpha",
        description="The adapters' output is scaled by alpha / rank. Above 0 to 4096.",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, title="Dropout", description="On the adapters' input, 0 to below 1.")
    targets: str = Field(
        default=ALL_LINEAR, title="Targets",
        description="all-linear, or the names of the layers that get an adapter, with commas: q_proj,v_proj.",
    )  # fmt: skip

    @field_validator("targets")
    @classmethod
    def _names_something(cls, targets: str) -> str:
        names = target_names(targets)
        if not names:
            raise ValueError(f"names no layer; use {ALL_LINEAR}, or names with commas such as q_proj,v_proj")
        if ALL_LINEAR in names and len(names) > 1:
            raise ValueError(f"{ALL_LINEAR} already means every linear layer; leave the other names out")
        return targets

    def load(self, base: ModelRef, dtype: "torch.dtype") -> "PreTrainedModel":
        """The base model as it is."""
        from tasks.models import load_model

        return load_model(base.location, dtype, base.trust_remote_code)


class LowRank(Adapted):
    """Settings of LoRA in all its forms."""

    rank_stabilized: bool = Field(
        default=False, title="Rank-stabilized", description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023, section 3)."
    )
    weight_decomposed: bool = Field(
        default=False, title="DoRA", description="Learn magnitude and direction apart (Liu et al. 2024, section 4)."
    )

    def check(self, base: ModelRef | None) -> str:
        """Why this cannot train `base`; "" where it can, and where none is known."""
        if base is None:
            return ""
        return check_rank(self.rank, base) or check_targets(self.targets, base)

    def trainable_parameters(self, base: ModelRef) -> int:
        """How many weights learn."""
        return low_rank_size(self, base)

    def save(self, model: Any, folder: Path) -> None:
        """Write the adapter alone."""
        model.save_pretrained(str(folder), safe_serialization=True)

    def driver(self, engine: Any, total_steps: int, plan: HardwarePlan) -> Driver:
        """None is needed."""
        return NoDriver()


def target_names(targets: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in targets.split(",") if name.strip()]


def target_modules(targets: str) -> str | list[str]:
    """The targets as PEFT wants them."""
    names = target_names(targets)
    return ALL_LINEAR if names == [ALL_LINEAR] else names


def lora_config(spec: LowRank, init: str = "") -> Any:
    """PEFT's configuration of `spec`; `init` names another start than zero."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=target_modules(spec.targets),
        use_rslora=spec.rank_stabilized,
        use_dora=spec.weight_decomposed,
        init_lora_weights=init or True,
    )


def check_rank(rank: int, base: ModelRef, name: str = "method.rank") -> str:
    """Why `rank` is too large for `base`; "" where it is not."""
    if rank > base.hidden_size:
        return f"{name} {rank} is above the model's hidden size {base.hidden_size}; use a smaller rank, e.g. 16"
    return ""


def check_targets(targets: str, base: ModelRef, embeddings: bool = True) -> str:
    """Why `targets` do not fit `base`; "" where each names at least one layer that can have an adapter.

    Args:
        targets: names with commas.
        base: the model.
        embeddings: whether the method adapts embeddings too.
    """
    if target_modules(targets) == ALL_LINEAR:
        return ""
    from tasks.training.methods.skeleton import skeleton

    model = skeleton(base)
    layers = _layers(model, embeddings)
    known = sorted({path.rpartition(".")[2] for path in layers})
    for target in target_names(targets):
        meant_layers = [layer for path, layer in layers.items() if _is_target(path, [target])]
        if meant_layers and not (_shares_weights(model) and _ends(model) & set(meant_layers)):
            continue
        if meant_layers:
            return (
                f"method.targets names {target!r}, whose weights {base.uri} uses both to read and to say tokens, so that what "
                f"is learned at one end could not be merged. Leave it out"
            )
        return (
            f"method.targets names {target!r}, which is no layer of {base.uri} that this method can adapt: it has "
            f"{', '.join(known)}.{did_you_mean(target, known)} Or use {ALL_LINEAR}"
        )
    return ""


def matrices(targets: str, base: ModelRef) -> list[tuple[int, int]]:
    """(inputs, outputs) of each weight of `base` that gets an adapter, without loading one."""
    from torch import nn

    from tasks.training.methods.skeleton import skeleton

    model = skeleton(base)
    names, head = target_modules(targets), model.get_output_embeddings()
    found = []
    for path, layer in _layers(model, embeddings=True).items():
        plain = not isinstance(layer, nn.Embedding) and layer is not head
        if plain if names == ALL_LINEAR else _is_target(path, names):
            rows, columns = layer.weight.shape
            found.append((columns, rows) if isinstance(layer, nn.Linear) else (rows, columns))
    return found


def low_rank_size(spec: LowRank, base: ModelRef) -> int:
    """Weights of LoRA's matrices, and DoRA's magnitude of each output."""
    shapes = matrices(spec.targets, base)
    magnitudes = sum(outputs for _, outputs in shapes) if spec.weight_decomposed else 0
    return sum(spec.rank * (inputs + outputs) for inputs, outputs in shapes) + magnitudes


def _layers(model: Any, embeddings: bool) -> dict[str, Any]:
    """The layers of `model` that PEFT's low-rank methods know, by path."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    known = (nn.Linear, Conv1D, nn.Embedding) if embeddings else (nn.Linear, Conv1D)
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, known)}


def _shares_weights(model: Any) -> bool:
    return bool(model.config.get_text_config().tie_word_embeddings)


def _ends(model: Any) -> set[Any]:
    """The layers by which tokens come in and go out."""
    return {model.get_input_embeddings(), model.get_output_embeddings()}


def _is_target(path: str, names: "str | list[str]") -> bool:
    """PEFT's rule: the whole path, or its end behind a dot."""
    return any(path == name or path.endswith(f".{name}") for name in names)
