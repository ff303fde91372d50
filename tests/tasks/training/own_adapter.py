"""An adapter that a user might bring: one learned factor for the output of each down projection."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Scaled(nn.Module):
    def __init__(self, inner: nn.Linear, start: float) -> None:
        super().__init__()
        self.inner = inner
        self.factor = nn.Parameter(torch.full((inner.out_features,), start, device=inner.weight.device))

    def forward(self, hidden: Any) -> Any:
        return self.inner(hidden) * self.factor


class Scales:
    """The four methods that training asks for, and the check it may ask for."""

    def __init__(self, start: float = 1.0) -> None:
        self.start = start

    def check(self, base: Any) -> str:
        return "Scales wants a model of more than one layer" if base.layers < 2 else ""

    def wrap(self, model: Any) -> Any:
        model.requires_grad_(False)
        for layer in model.model.layers:
            layer.mlp.down_proj = Scaled(layer.mlp.down_proj, self.start)
        return model

    def save(self, model: Any, folder: Path) -> None:
        factors = {name: weight.detach().contiguous() for name, weight in model.named_parameters() if "factor" in name}
        save_file(factors, folder / "scales.safetensors")

    def load(self, model: Any, folder: Path) -> Any:
        wrapped = self.wrap(model)
        wrapped.load_state_dict(load_file(folder / "scales.safetensors"), strict=False)
        return wrapped

    def merge(self, model: Any) -> Any:
        for layer in model.model.layers:
            scaled = layer.mlp.down_proj
            scaled.inner.weight = nn.Parameter(scaled.inner.weight * scaled.factor.unsqueeze(1))
            layer.mlp.down_proj = scaled.inner
        return model
