"""How far forecasts of memory and time are from what trainings take. Prints a table.

    .venv/bin/python benchmarks/forecast.py [--only WORDS] [--folder DIR] [--anchors]

Each case is a model of random weights and a short real training by the usual worker under torchrun on the CPU: the peak is that
of the rank's resident memory. The time is that of its last steps; it is forecast three times: by arithmetic and the machine's
matrix products, by the median of the other cases (as history does it), and by a probe. --anchors plans Llama-3.1-70B on eight
A100 of 80 GB, beside what torchtune publishes.
"""

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contracts import HardwarePlan, ModelRef
from tasks.models import describe
from tasks.resources import cost
from tasks.resources.fitting import Wanted
from tasks.resources.footprint import Footprint
from tasks.resources.hardware import Machine
from tasks.resources.memory import Setup, needed
from tasks.resources.planning import plan_training
from tasks.resources.probe import job_of, measure
from tasks.resources.spec import ResourceSpec, Workload
from tasks.training.job import TrainingJob
from tasks.training.launch import launch
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tasks.training.spec import AdvancedTraining, TrainingSpec


@dataclass(frozen=True)
class Case:
    """One training."""

    name: str
    method: Any
    hidden: int = 512
    layers: int = 8
    heads: int = 8
    key_heads: int = 8
    vocabulary: int = 4096
    length: int = 256
    rows: int = 8
    accumulation: int = 1
    checkpointing: bool = False
    devices: int = 1
    stage: int = 0

    def setup(self) -> Setup:
        """What its memory depends on."""
        return Setup(
            rows=self.rows, accumulation=self.accumulation, length=self.length, checkpointing=self.checkpointing,
            devices=self.devices, zero_stage=self.stage, quantized=self.method.kind == "qlora",  # type: ignore[arg-type]
            share=self.rows * self.accumulation,
        )  # fmt: skip


_TINY: dict[str, Any] = {"hidden": 256, "layers": 4, "heads": 4, "key_heads": 4}
CASES = (
    Case("5M full", Full(), **_TINY, length=128),
    Case("5M LoRA", Lora(), **_TINY, length=512),
    Case("29M full", Full()),
    Case("29M full, accumulated", Full(), rows=4, accumulation=2),
    Case("29M full, recomputed", Full(), length=512, checkpointing=True),
    Case("29M LoRA", Lora(), length=512, rows=4),
    Case("29M LoRA, recomputed", Lora(), length=512, checkpointing=True),
    Case("29M QLoRA", QLora(), length=256, rows=4),
    Case("64M LoRA, grouped heads", Lora(), hidden=768, heads=12, key_heads=4, rows=4),
    Case("44M full, 32k words", Full(), layers=4, vocabulary=32_000, rows=4),
    Case("44M LoRA, 32k words", Lora(), layers=4, vocabulary=32_000, rows=8),
    Case("29M full, ZeRO 2 on 2", Full(), rows=4, devices=2, stage=2),
    Case("29M full, ZeRO 3 on 2", Full(), rows=4, devices=2, stage=3),
)


def build(case: Case, folder: Path) -> ModelRef:
    """The case's model, its weights random."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=8 * case.hidden // 3 // 32 * 32,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=case.key_heads,
        max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    return describe(case.name, folder / "base")


def write_rows(case: Case, path: Path, count: int) -> None:
    """Rows of random words, all of the case's length and learned whole."""
    generator = np.random.default_rng(0)
    ids = [generator.integers(0, case.vocabulary, case.length).astype(np.int32) for _ in range(count)]
    marks = pa.array([[1] * case.length] * count, pa.list_(pa.int8()))
    texts = [""] * count
    pq.write_table(
        pa.table({
            "row": list(range(count)), "input_ids": pa.array(ids, pa.list_(pa.int32())), "supervised": marks,
            "prompt": texts, "reference": texts, "group": texts,
        }), path,
    )  # fmt: skip


def train(case: Case, base: ModelRef, folder: Path, steps: int) -> dict[str, Any]:
    """What a real training says of itself, and the seconds of one of its later steps."""
    for name in ("train", "validation"):
        write_rows(case, folder / f"{name}.parquet", 64 if name == "train" else 2)
    plan = HardwarePlan(
        accelerator="cpu", device_name="", devices=case.devices, backend="gloo", threads=1, zero_stage=case.stage,  # type: ignore[arg-type]
        micro_batch=case.rows, accumulation=case.accumulation, precision="fp32", activation_checkpointing=case.checkpointing,
        memory_gib=0, hours=0, cost_usd=0, energy_kwh=0, reasons=(),
    )  # fmt: skip
    spec = TrainingSpec(
        max_steps=steps, batch_size=case.rows * case.accumulation * case.devices,
        advanced=AdvancedTraining(validate_steps=1000, checkpoint_steps=1000),
    )  # fmt: skip
    seen: list[tuple[int, float]] = []
    job = TrainingJob(
        base=base, train_file=folder / "train.parquet", validation_file=folder / "validation.parquet", method=case.method,
        spec=spec, plan=plan, seed=0, pad_token_id=0, checkpoints=folder / "checkpoints", out=folder / "out", key=case.name,
    )  # fmt: skip
    result = launch(job)
    for line in (folder / "out" / "history.jsonl").read_text().splitlines():
        if '"seconds"' in line:
            point = json.loads(line)
            seen.append((int(point["step"]), float(point["seconds"])))
    (first, began), (last, ended) = seen[len(seen) // 2 - 1], seen[-1]
    return {**result, "step_seconds": (ended - began) / max(1, last - first)}


def forecast(case: Case, base: ModelRef, rate: float) -> tuple[float, str, float, float]:
    """GiB, what holds it, and seconds of a step: by arithmetic and by a probe."""
    setup = case.setup()
    footprint = Footprint(base, case.method, "fp32", masked=False)
    parts = needed(footprint, setup)
    tokens = case.rows * case.accumulation * case.devices * case.length
    total = cost.operations(base, footprint.weights, cost.Work(tokens, 0, case.length), case.checkpointing)
    speeds: list[float] = []
    if case.stage == 0:
        work = Workload(batch_size=case.rows * case.accumulation, longest=case.length, tokens=tokens)
        job = job_of(Wanted(base, case.method, work), replace(setup, share=case.rows * case.accumulation), 1, 1e9)
        measure(job, lambda point: speeds.append(point.tokens_per_second) if point.rows == case.rows else None, (case.rows,))
    return (
        parts.total,
        parts.sentence(),
        3600 * cost.hours_of(total, rate, "cpu", case.devices),
        tokens / speeds[0] if speeds else 0.0,
    )


def compare(cases: list[Case], folder: Path, steps: int) -> None:
    """Train, forecast, print."""
    rate = cost.measure_rate("cpu", "fp32")
    rows = []
    for number, case in enumerate(cases):
        place = folder / str(number)
        place.mkdir(parents=True)
        base = build(case, place)
        result = train(case, base, place, steps)
        memory, parts, by_sums, by_probe = forecast(case, base, rate)
        rows.append((case, memory, result["peak_gib"], by_sums, by_probe, result["step_seconds"], parts))
        print(f"  {case.name}: {memory:.3f} GiB forecast, {result['peak_gib']:.3f} measured ({parts})", flush=True)
    print("\n| training | GiB forecast | measured | ratio | seconds a step | by arithmetic | by the others | by a probe |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for case, memory, peak, by_sums, by_probe, seconds, _ in rows:
        others = [row[5] / row[3] for row in rows if row[0] is not case] or [1.0]
        corrected = by_sums * statistics.median(others)
        probe = f"{by_probe / seconds:.2f}" if by_probe else ""
        print(
            f"| {case.name} | {memory:.2f} | {peak:.2f} | {memory / peak:.2f} | {seconds:.2f} | {by_sums / seconds:.2f} | "
            f"{corrected / seconds:.2f} | {probe} |"
        )
    errors = [abs(memory / peak - 1) for _, memory, peak, *_ in rows]
    print(f"\nmemory: median error {statistics.median(errors):.1%}, largest {max(errors):.1%}, of {len(rows)} trainings")


def anchors(folder: Path) -> None:
    """Print plans for Llama-3.1-70B on eight A100, and torchtune's figures."""
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=128_256, hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, max_position_embeddings=131_072,
    ).save_pretrained(folder / "llama")  # fmt: skip
    base = ModelRef(
        uri="meta-llama/Llama-3.1-70B", location=str(folder / "llama"), sha256="7" * 64, parameters=70_553_706_496,
        architecture="LlamaForCausalLM", max_positions=131_072, vocabulary=128_256, bytes=141_107_412_992, hidden_size=8192,
        layers=80,
    )  # fmt: skip
    machine = Machine("cuda", "NVIDIA A100-SXM4-80GB", 8, 79.0, 96, True, 2000.0)
    print("| method | rows x tokens | GiB a GPU | ZeRO | offload | torchtune |\n|---|---:|---:|---:|---|---:|")
    for method, published in ((Lora(), "27.6"), (QLora(), ""), (Full(), "13.9")):
        for length in (512, 4096):
            asked = Workload(batch_size=16, micro_batch_size=2, longest=length, tokens=10**7, checkpointing="on")
            found = plan_training(ResourceSpec(), machine, Wanted(base, method, asked), rate=312e12)
            print(
                f"| {method.kind} | 2 x {length} | {found.memory_gib:.1f} | {found.zero_stage} | {found.offload} | "
                f"{published if length == 512 else ''} |"
            )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps of each training")
    parser.add_argument("--folder", type=Path, default=None, help="where models and checkpoints are written, and left")
    parser.add_argument("--anchors", action="store_true", help="plan Llama-3.1-70B instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if options.anchors:
            anchors(folder)
            return
        print(f"load average before: {os.getloadavg()[0]:.1f}")
        compare([case for case in CASES if options.only in case.name], folder, options.steps)


if __name__ == "__main__":
    main()
