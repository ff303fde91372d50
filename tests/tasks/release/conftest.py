"""A real base, a real adapter that changes what it says, the same in full weights, and jobs to export them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contracts import Forecast, ModelRef, TrainedModel
from tasks.models import load_model, weights_digest
from tasks.release.job import ExportJob
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tests.tasks.test_models import byte_tokenizer
from tests.tasks.training.conftest import cpu_plan

PROMPTS = ("The sea is", "two and two", "x")


@dataclass(frozen=True)
class Trained:
    """A trained model and the folder of its weights."""

    model: TrainedModel
    weights: Path


@pytest.fixture(scope="session")
def adapter(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A LoRA adapter of rank 4 whose B matrices, zero at first, are drawn at random."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    method = Lora(rank=4)
    model = method.wrap(load_model(tiny_base.location, torch.float32))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    method.save(model, folder)
    return Trained(trained_model(tiny_base, folder, adapter=True), folder)


@pytest.fixture(scope="session")
def full(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The base after a step in every weight."""
    folder = tmp_path_factory.mktemp("full")
    torch.manual_seed(0)
    method = Full()
    model = method.wrap(load_model(tiny_base.location, torch.float32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    method.save(model, folder)
    return Trained(trained_model(tiny_base, folder, adapter=False), folder)


def trained_model(base: ModelRef, folder: Path, adapter: bool) -> TrainedModel:
    forecast = dict.fromkeys(Forecast.model_fields, 0.0)
    return TrainedModel(
        uri=str(folder), sha256=weights_digest(folder), base=base, data_sha256="0" * 64, tokenizer_uri="tokenizer",
        adapter=adapter, method="lora" if adapter else "full", settings={}, plan=cpu_plan(), seed=0, steps=1, tokens=1,
        trainable_parameters=1, best_step=1, train_loss=1.0, validation_loss=None, seconds=1.0, resumed_from=0,
        forecast=Forecast(**forecast), history_uri="history",
    )  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer(eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    return folder


@pytest.fixture
def make_job(tokenizer: Path, tmp_path: Path) -> Callable[..., ExportJob]:
    def make(trained: Trained, exporter: Any, name: str = "out", **changes: Any) -> ExportJob:
        golden = tmp_path / "golden.jsonl"
        golden.write_text("".join(json.dumps({"prompt": text, "input_ids": list(text.encode())}) + "\n" for text in PROMPTS))
        (tmp_path / name).mkdir()
        facts: dict[str, Any] = {
            "trained": trained.model, "weights": trained.weights, "tokenizer": tokenizer, "golden_file": golden,
            "golden_prompts": 20, "exporter": exporter, "out": tmp_path / name, "threads": 1, "new_tokens": 4,
        }  # fmt: skip
        return ExportJob(**(facts | changes))

    return make
