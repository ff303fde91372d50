"""How AdaLoRA spreads its rank: what each singular triplet matters, and which of them stay.

A triplet is a left vector, a value and a right one: a column of lora_B, an entry of lora_E and a row of lora_A. Numbers of
equations are those of Zhang et al. 2023 (AdaLoRA).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_SMOOTHING = 0.85  # both of the paper's betas (appendix C)
_PARTS = ("lora_A", "lora_B", "lora_E")


@dataclass(frozen=True)
class RankSchedule:
    """How much rank is left after each step: all of it, then less along a cubic, then what was asked for (equation 12)."""

    total: int
    first: int
    last: int
    explore_share: float
    settle_share: float
    every: int = 0

    @property
    def shrinks_from(self) -> int:
        """Steps after which ranks begin to shrink."""
        return int(self.total * self.explore_share)

    @property
    def settled_after(self) -> int:
        """Steps after which no rank is taken any more."""
        return max(self.shrinks_from + 1, self.total - int(self.total * self.settle_share))

    def budget(self, done: int, adapters: int) -> int:
        """Ranks of all adapters together once `done` steps are made."""
        if done <= self.shrinks_from:
            return self.first * adapters
        if done >= self.settled_after:
            return self.last * adapters
        left = 1 - (done - self.shrinks_from) / (self.settled_after - self.shrinks_from)
        return self.last * adapters + int((self.first - self.last) * adapters * left**3)

    def allocates(self, done: int) -> bool:
        """Whether rank is given out anew after `done` steps."""
        if not self.shrinks_from < done <= self.settled_after:
            return False
        return done == self.settled_after or done % (self.every or max(1, self.total // 100)) == 0


class RankDriver:
    """Takes rank away from a model of PEFT's AdaLoRA, step by step.

    Args:
        model: the PEFT model.
        schedule: how much rank is left after each step.
        orthogonality: weight of the orthogonality term.
    """

    def __init__(self, model: Any, schedule: RankSchedule, orthogonality: float) -> None:
        self.schedule, self.orthogonality = schedule, orthogonality
        self.weights = {name: weight for name, weight in model.named_parameters() if _is_part(name, weight)}
        self.adapters = sorted(name for name in self.weights if "lora_E" in name)
        self.smooth: dict[str, Tensor] = {}  # sensitivity, smoothed (equation 9)
        self.doubt: dict[str, Tensor] = {}  # its uncertainty, smoothed (equation 10)
        self.kept: dict[str, Tensor] = {}  # of each adapter, which triplets have a value

    def extra_loss(self, model: Any) -> "Tensor | None":
        """How far singular vectors are from orthogonal: mean of ||P'P - I|| over all of them (equation 4, as a norm)."""
        import torch

        if not self.orthogonality:
            return None
        distances = []
        for name, weight in model.named_parameters():
            if not _is_part(name, weight) or "lora_E" in name:
                continue
            products = weight @ weight.T if "lora_A" in name else weight.T @ weight
            distances.append(torch.linalg.matrix_norm(products - torch.eye(len(products)).to(products)))
        return self.orthogonality * torch.stack(distances).mean()

    def before_step(self, step: int) -> None:
        """Weigh every weight by its gradient: |w dw|, smoothed, and how much that varies (equations 8 to 10)."""
        import torch
        from deepspeed.utils import safe_get_full_grad

        if step + 1 > self.schedule.settled_after:
            return
        with torch.no_grad():
            for name, weight in self.weights.items():
                gradient = safe_get_full_grad(weight)
                assert gradient is not None, f"{name} has no gradient before the optimizer's step"
                fresh = (weight.float() * gradient.float()).abs()
                smooth = self.smooth.get(name, torch.zeros_like(fresh)).lerp(fresh, 1 - _SMOOTHING)
                self.doubt[name] = self.doubt.get(name, torch.zeros_like(fresh)).lerp((fresh - smooth).abs(), 1 - _SMOOTHING)
                self.smooth[name] = smooth

    def after_step(self, step: int) -> None:
        """Give out rank anew where it is time; later, keep what was lost at nothing."""
        done = step + 1
        if self.schedule.allocates(done):
            self._allocate(self.schedule.budget(done, len(self.adapters)))
            self._mask()
        elif done > self.schedule.settled_after:
            self._mask()

    def state(self) -> "dict[str, Tensor]":
        """Both averages, and what is kept."""
        parts = {"smooth": self.smooth, "doubt": self.doubt, "kept": self.kept}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def load(self, state: "dict[str, Tensor]") -> None:
        """Go on from there."""
        parts = {"smooth": self.smooth, "doubt": self.doubt, "kept": self.kept}
        for tensors in parts.values():
            tensors.clear()
        for key, tensor in state.items():
            part, _, name = key.partition(".")
            parts[part][name] = tensor.to(self.weights[name].device)

    def facts(self) -> dict[str, float]:
        """Ranks in use, of all adapters together."""
        return {"active_ranks": sum(self.details().values())}

    def details(self) -> dict[str, float]:
        """Rank of each adapter, by the path of its layer."""
        ranks = {name: int(self.kept[name].sum()) if name in self.kept else len(self.weights[name]) for name in self.adapters}
        return {_layer(name): float(rank) for name, rank in ranks.items()}

    def _allocate(self, budget: int) -> None:
        """Keep the `budget` triplets that matter most; of equals, the first."""
        import torch

        scores = [self._triplets(name) for name in self.adapters]
        best = torch.cat(scores).sort(descending=True, stable=True).indices[:budget]
        kept = torch.zeros(sum(map(len, scores)), dtype=torch.bool, device=best.device)
        kept[best] = True
        parts = torch.split_with_sizes(kept, [len(score) for score in scores])
        self.kept = {name: part.clone() for name, part in zip(self.adapters, parts, strict=True)}

    def _triplets(self, name: str) -> "Tensor":
        """What each triplet matters: its value, and the mean of either vector (equation 7)."""
        value, right, left = (self._scores(name.replace("lora_E", part)) for part in ("lora_E", "lora_A", "lora_B"))
        return value.flatten() + right.mean(1) + left.mean(0)

    def _scores(self, name: str) -> "Tensor":
        return self.smooth[name] * self.doubt[name]  # equation 11

    def _mask(self) -> None:
        """Set the values of lost triplets to nothing, in the optimizer's own copy too, or it would bring them back."""
        import torch
        from deepspeed.utils import safe_set_full_fp32_param

        with torch.no_grad():
            for name, kept in self.kept.items():
                weight = self.weights[name]
                weight.mul_(kept.unsqueeze(1))
                safe_set_full_fp32_param(weight, weight.data)


@contextmanager
def only_used_ranks(model: Any) -> Iterator[None]:
    """A context in which PEFT writes the triplets that have a value alone; the model computes the same without the others."""
    config = model.peft_config["default"]
    values = {name: weight for name, weight in model.base_model.model.named_parameters() if "lora_E" in name}
    used = {name: (weight.detach().flatten() != 0).tolist() for name, weight in values.items()}
    config.rank_pattern = None if all(map(all, used.values())) else used
    try:
        yield
    finally:
        config.rank_pattern = None


def _is_part(name: str, weight: Any) -> bool:
    return weight.requires_grad and any(part in name for part in _PARTS)


def _layer(name: str) -> str:
    """model.layers.0.mlp.up_proj for base_model.model.model.layers.0.mlp.up_proj.lora_E.default."""
    return name.removeprefix("base_model.model.").partition(".lora_E")[0]
