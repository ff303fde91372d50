"""A real model of two layers, its tokenizer of bytes, adapters around it and test rows to ask them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tasks.contracts import Forecast, HardwarePlan, TrainedModel
from tasks.evaluation.benchmarks.held_out import HeldOut
from tasks.evaluation.job import EvaluationJob
from tasks.models import describe, load_model, load_tokenizer

QUESTIONS = [
    "two and two",
    "the sea",
    "a",
    "red or blue",
    "up",
    "north of here",
    "one",
    "tea",
    "ice and fire",
    "why not",
]


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base")
    _byte_tokenizer().save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, initializer_range=0.3, eos_token_id=256, bos_token_id=256,
        pad_token_id=256, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    # Habits such as hub models bring: greedy must stay greedy.
    model.generation_config.do_sample = True
    model.generation_config.repetition_penalty = 1.5
    model.save_pretrained(folder)
    return folder


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: at for at, symbol in enumerate(alphabet)} | {"<end>": 256}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="session")
def adapters(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters that change what the model says: LoRA, AdaLoRA, and PiSSA, which also changes the base weights."""
    from peft import AdaLoraConfig, LoraConfig, get_peft_model

    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}
    configs = {
        "lora": LoraConfig(r=4, init_lora_weights=False, **common),
        "pissa": LoraConfig(r=4, init_lora_weights="pissa", **common),
        "adalora": AdaLoraConfig(init_r=4, target_r=2, total_step=10, tinit=1, tfinal=2, **common),
    }
    folders = {}
    for name, config in configs.items():
        torch.manual_seed(2)
        model = get_peft_model(load_model(base_folder, torch.float32), config)
        for key, parameter in model.named_parameters():
            if "lora_E" in key:
                torch.nn.init.normal_(parameter)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(str(folders[name]))
    return folders


@pytest.fixture(scope="session")
def full_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base after a step in every weight."""
    model = load_model(base_folder, torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("full")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def test_file(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rows in five groups, with lengths from a few to some forty tokens."""
    tokenizer = load_tokenizer(base_folder)
    rows = []
    for at, question in enumerate(QUESTIONS):
        prompt, reference = f"Q: {question}\nA:", f" {question[::-1]}"
        asked, answer = tokenizer(prompt)["input_ids"], [*tokenizer(reference)["input_ids"], 256]
        rows.append(
            {
                "row": 100 + at, "input_ids": asked + answer, "supervised": [0] * len(asked) + [1] * len(answer),
                "prompt": prompt, "reference": reference, "group": f"g{at // 2}",
            }
        )  # fmt: skip
    return write_rows(tmp_path_factory.mktemp("data") / "test.parquet", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    schema = pa.schema(
        [
            ("row", pa.int64()), ("input_ids", pa.list_(pa.int32())), ("supervised", pa.list_(pa.int8())),
            ("prompt", pa.string()), ("reference", pa.string()), ("group", pa.string()),
        ]
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


@pytest.fixture(scope="session")
def trained_model(base_folder: Path) -> Callable[..., TrainedModel]:
    plan = HardwarePlan(
        accelerator="cpu", device_name="test", devices=1, backend="gloo", threads=1, zero_stage=0, micro_batch=1,
        accumulation=1, precision="fp32", activation_checkpointing=False, memory_gib=0, hours=0, cost_usd=0,
        energy_kwh=0, reasons=(),
    )  # fmt: skip
    forecast = Forecast(
        predicted_memory_gib=0, actual_memory_gib=0, predicted_hours=0, actual_hours=0, predicted_cost_usd=0,
        actual_cost_usd=0,
    )  # fmt: skip

    def make(**changes: Any) -> TrainedModel:
        fields: dict[str, Any] = {
            "uri": "trained", "sha256": "a" * 64, "base": describe("tiny", base_folder), "data_sha256": "b" * 64,
            "tokenizer_uri": "tokenizer", "adapter": True, "method": "lora", "settings": {}, "plan": plan, "seed": 0,
            "steps": 10, "tokens": 100, "trainable_parameters": 10, "best_step": 10, "train_loss": 1.0,
            "validation_loss": 1.0, "seconds": 1.0, "resumed_from": 0, "forecast": forecast, "history_uri": "history",
        }  # fmt: skip
        return TrainedModel(**(fields | changes))

    return make


@pytest.fixture
def make_job(
    tmp_path: Path,
    base_folder: Path,
    adapters: dict[str, Path],
    test_file: Path,
    trained_model: Callable[..., TrainedModel],
) -> Callable[..., EvaluationJob]:
    """A job for the LoRA adapter, with changes."""

    def make(adapter: bool = True, **changes: Any) -> EvaluationJob:
        fields: dict[str, Any] = {
            "trained": trained_model(adapter=adapter), "trained_folder": adapters["lora"],
            "tokenizer_folder": base_folder, "test_file": test_file, "out": tmp_path / "out",
            "benchmarks": (HeldOut(max_new_tokens=6),), "seed": 0, "precision": "fp32", "device": "cpu",
            "batch_size": 4, "threads": 1,
        }  # fmt: skip
        return EvaluationJob(**(fields | changes))

    return make


def write_job(job: EvaluationJob, path: Path) -> Path:
    path.write_text(json.dumps(job.model_dump(mode="json")), encoding="utf-8")
    return path
