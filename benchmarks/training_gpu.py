"""LoRA and QLoRA on one GPU: this project's loop beside a plain one of transformers and PEFT; 4-bit products beside plain ones.

    .venv/bin/python benchmarks/training_gpu.py [--steps 10] [--rows 1] [--length 4096] [--ways ours-lora,plain-lora] [--tiny]

A Llama of the shape of Llama 3.1 8B with random weights, which are written to a folder for the time of the run (16 GB); bf16,
packs of `length` tokens made of a few documents each, `rows` packs a step, every token learned, activations computed twice.
Each way runs in a process of its own. The plain loop is PEFT's adapter around transformers' model with its own loss, AdamW in
one kernel, the same packs and positions. MFU counts 4 operations a frozen weight and token and 6 one that learns (Kaplan et
al. 2020, 2.1), without attention between tokens and what is computed twice, divided by what a product of matrices reaches in
the same process. With --tiny the model is of two small layers, in fp32, on the CPU: it shows that the script runs, and
nothing else.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
WARM = 2  # steps that are not timed
DOCUMENTS = 4  # of a pack
RANK, ALPHA, RATE = 16, 32, 1e-4
WAYS = {
    "ours, LoRA": "ours-lora",
    "transformers + PEFT, LoRA": "plain-lora",
    "ours, QLoRA": "ours-qlora",
    "transformers + PEFT, QLoRA": "plain-qlora",
}
Report = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A Llama, and where it is trained."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    groups: int
    accelerator: str
    precision: str


EIGHT_BILLION = Shape(128_256, 4096, 14_336, 32, 32, 8, "cuda", "bf16")
TINY = Shape(512, 64, 160, 2, 4, 2, "cpu", "fp32")


@dataclass(frozen=True)
class Asked:
    """What is measured: so many steps of so many packs."""

    shape: Shape
    folder: Path
    steps: int
    rows: int
    length: int

    @property
    def dtype(self) -> Any:
        """Of weights and arithmetic."""
        import torch

        return {"bf16": torch.bfloat16, "fp32": torch.float32}[self.shape.precision]


def write_base(asked: Asked) -> None:
    """A model of random weights in the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = asked.shape
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.groups, max_position_embeddings=131_072,
        tie_word_embeddings=False, pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )  # fmt: skip
    with torch.device(shape.accelerator):
        model = LlamaForCausalLM._from_config(config, dtype=asked.dtype)
    model.save_pretrained(asked.folder / "base")


def documents(asked: Asked) -> list[list[list[int]]]:
    """The packs of every step: documents of random tokens and lengths that fill one together."""
    generator = np.random.default_rng(0)
    packs = []
    for _ in range(asked.rows * (asked.steps + WARM)):
        cuts = np.sort(generator.choice(np.arange(8, asked.length - 8, 8), DOCUMENTS - 1, replace=False))
        lengths = np.diff([0, *cuts, asked.length])
        packs.append([generator.integers(3, asked.shape.vocabulary, length).tolist() for length in lengths])
    return packs


def timed(asked: Asked, step: Callable[[int], int]) -> tuple[int, float]:
    """Tokens and seconds of the steps that count; `step` returns its tokens."""
    tokens, started = 0, 0.0
    for number in range(asked.steps + WARM):
        if number == WARM:
            tokens, started = 0, _now(asked)
        tokens += step(number)
    return tokens, _now(asked) - started


def ours(asked: Asked, kind: str) -> tuple[int, float, Any]:
    """This project's loop; tokens, seconds and the model."""
    from benchmarks.training import started_loop, write_rows

    write_rows(asked.folder, [document for pack in documents(asked) for document in pack])
    loop = started_loop(_job(asked, kind))

    def step(number: int) -> int:
        before = loop.progress.tokens
        loop._train_step(number)
        return int(loop.progress.tokens - before)

    return *timed(asked, step), loop.engine.module


def _job(asked: Asked, kind: str) -> Any:
    from tasks.contracts import HardwarePlan
    from tasks.models import describe
    from tasks.training.job import TrainingJob
    from tasks.training.methods.lora import Lora
    from tasks.training.methods.qlora import QLora
    from tasks.training.spec import AdvancedTraining, TrainingSpec

    plan = HardwarePlan(
        accelerator=asked.shape.accelerator, device_name="benchmark", devices=1,  # type: ignore[arg-type]
        backend="nccl" if asked.shape.accelerator == "cuda" else "gloo", threads=1, zero_stage=0, micro_batch=asked.rows,
        accumulation=1, precision=asked.shape.precision, activation_checkpointing=True,  # type: ignore[arg-type]
        memory_gib=0, hours=0, cost_usd=0, energy_kwh=0, reasons=(),
    )  # fmt: skip
    advanced = AdvancedTraining(checkpoint_steps=10**6, validate_steps=10**6, schedule="constant", warmup_share=0.0)
    spec = TrainingSpec(
        max_steps=asked.steps + WARM, batch_size=asked.rows, packing=True, max_length=asked.length, learning_rate=RATE,
        advanced=advanced,
    )  # fmt: skip
    method = {"lora": Lora, "qlora": QLora}[kind](rank=RANK, alpha=ALPHA)
    return TrainingJob(
        base=describe("benchmark", asked.folder / "base"), train_file=asked.folder / "train.parquet", method=method, spec=spec,
        plan=plan, validation_file=asked.folder / "validation.parquet", seed=0, pad_token_id=0,
        checkpoints=asked.folder / "checkpoints", out=asked.folder / "out", key="benchmark",
    )  # fmt: skip


def plain(asked: Asked, kind: str) -> tuple[int, float, Any]:
    """A loop as one would write it: forward, the model's own loss, backward, clipping, AdamW."""
    import torch

    model, packs = _plain_model(asked, kind), documents(asked)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, fused=True)

    def step(number: int) -> int:
        mine = packs[number * asked.rows : (number + 1) * asked.rows]
        ids = torch.tensor([list(chain.from_iterable(pack)) for pack in mine], device=model.device)
        places = [[at for document in pack for at in range(len(document))] for pack in mine]
        positions = torch.tensor(places, device=model.device)
        model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return int(ids.numel())

    return *timed(asked, step), model


def _plain_model(asked: Asked, kind: str) -> Any:
    from importlib.util import find_spec

    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    on_gpu, again = asked.shape.accelerator == "cuda", {"use_reentrant": False}
    more: dict[str, Any] = {"device_map": {"": 0}} if on_gpu else {}
    if kind == "qlora":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=asked.dtype
        )
    attention = "flash_attention_2" if on_gpu and find_spec("flash_attn") else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        asked.folder / "base", dtype=asked.dtype, attn_implementation=attention, **more
    )
    if kind == "qlora":
        model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs=again)
    else:
        model.gradient_checkpointing_enable(again)
        model.enable_input_require_grads()
    config = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    return get_peft_model(model, config).train()


def measure(asked: Asked, way: str) -> Report:
    """One way, in this process."""
    from tasks.training.signals import matmul_rate, operations

    place, _, kind = way.partition("-")
    tokens, seconds, model = {"ours": ours, "plain": plain}[place](asked, kind)
    work = sum(operations(model)) * tokens / seconds
    rate = matmul_rate(asked.shape.accelerator, asked.dtype, asked.shape.width)
    return {"speed": tokens / seconds, "teraflops": work / 1e12, "mfu": work / rate, "gib": _peak_gib(asked)}


def measure_nf4(asked: Asked) -> Report:
    """How far products with 4-bit weights are from those with the weights that they stand for, and with the original ones.

    As shares of the largest value: forward, and backward to the inputs, of the first layer's widest product.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit

    from tasks.models import load_model, load_quantized

    layer = load_quantized(asked.folder / "base", asked.dtype).model.layers[0].mlp.up_proj.to(asked.shape.accelerator)
    whole = load_model(asked.folder / "base", asked.dtype).model.layers[0].mlp.up_proj.weight.data.to(asked.shape.accelerator)
    stands_for = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(asked.dtype)
    torch.manual_seed(0)
    inputs = torch.randn(256, asked.shape.width, device=asked.shape.accelerator, dtype=asked.dtype)
    slope = torch.randn(256, asked.shape.inner, device=asked.shape.accelerator, dtype=asked.dtype)

    def products(act: Callable[[Any], Any]) -> tuple[Any, Any]:
        given = inputs.clone().requires_grad_()
        made = act(given)
        made.backward(slope)
        return made.detach().float(), given.grad.float()

    found = products(layer)
    others = {"same": stands_for, "original": whole}
    report: Report = {}
    for name, weight in others.items():
        for part, one, other in zip(
            ("forward", "backward"), found, products(lambda given, by=weight: given @ by.T), strict=True  # type: ignore[misc]
        ):  # fmt: skip
            report[f"{name} {part}"] = float((one - other).abs().max() / other.abs().max())
    return report


def _now(asked: Asked) -> float:
    if asked.shape.accelerator == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_gib(asked: Asked) -> float:
    if asked.shape.accelerator == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_child(options: argparse.Namespace, part: str, folder: str) -> Report:
    """What `part` measures, in a process of its own; nothing where it failed, and its last lines are printed."""
    command = [
        sys.executable, __file__, "--part", part, "--folder", folder, "--steps", str(options.steps), "--rows",
        str(options.rows), "--length", str(options.length), *(["--tiny"] if options.tiny else []),
    ]  # fmt: skip
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    if options.tiny:
        variables |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or (not lines and part != "base"):
        print(f"{part} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return {}
    report: Report = json.loads(lines[-1]) if lines else {}
    return report


def table(found: dict[str, Report], nf4: Report) -> Iterator[str]:
    """The lines of both tables."""
    yield "| way | tokens a second | Tflop/s | MFU | peak GiB |"
    yield "|---|---:|---:|---:|---:|"
    for name, report in found.items():
        if report:
            cells = (f"{report['speed']:,.0f}", f"{report['teraflops']:.3g}", f"{report['mfu']:.0%}", f"{report['gib']:.2f}")
            yield f"| {name} | {' | '.join(cells)} |"
    if nf4:
        yield ""
        yield "| 4-bit products apart from those of | forward | backward |"
        yield "|---|---:|---:|"
        for name, what in (("same", "the weights that they stand for"), ("original", "the original weights")):
            yield f"| {what} | {nf4[f'{name} forward']:.1e} | {nf4[f'{name} backward']:.1e} |"


def main() -> int:
    """Measure what was asked for, and print it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps that are timed")
    parser.add_argument("--rows", type=int, default=1, help="packs a step")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a pack")
    parser.add_argument("--ways", default=",".join(WAYS.values()), help="which, with commas")
    parser.add_argument("--tiny", action="store_true", help="a small model on the CPU")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        shape = TINY if options.tiny else EIGHT_BILLION
        asked = Asked(shape, Path(options.folder), options.steps, options.rows, options.length)
        if options.part == "base":
            write_base(asked)
        else:
            print(json.dumps(measure_nf4(asked) if options.part == "nf4" else measure(asked, options.part)))
        return 0
    import torch

    if not options.tiny and not torch.cuda.is_available():
        print("There is no GPU here. With --tiny a small model is trained on the CPU.", file=sys.stderr)
        return 1
    device = "the CPU, a tiny model" if options.tiny else torch.cuda.get_device_name()
    print(f"{device}; {options.steps} steps of {options.rows} pack(s) of {options.length} tokens\n")
    with tempfile.TemporaryDirectory() as folder:
        in_child(options, "base", folder)
        asked_ways = options.ways.split(",")
        found = {name: in_child(options, way, folder) for name, way in WAYS.items() if way in asked_ways}
        nf4 = in_child(options, "nf4", folder)
    print("\n".join(table(found, nf4)))
    return 0 if nf4 and all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
