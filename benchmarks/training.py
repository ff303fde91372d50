"""Steps of training side by side: a bare loop, this project's, the HF Trainer's and TRL's, and the limit of matrix products.

    .venv/bin/python benchmarks/training.py [--steps 24] [--trl PYTHON] [--ways ours-padded,hf-padded] [--accumulation]
        [--start-up]

A small Llama in fp32 on the CPU, AdamW, the same sequences in the same order of arrival, every token learned. Each way runs in
a process of its own, on one thread. Speed is in tokens a CPU second, since a busy machine bends others, without the first two
steps. The limit is what the same process reaches where it computes the matrix products of a step and nothing else: those of
every linear layer and of the head, forward and backward, 6 operations a weight and token (Kaplan et al. 2020, 2.1). PYTHON is
an interpreter with TRL, such as a virtual environment's: `python -m venv T && T/bin/pip install trl`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for an interpreter that has other packages, and not this project
VOCABULARY, WIDTH, LAYERS, LONGEST, SHORTEST, BATCH = 4096, 256, 4, 241, 31, 16
PACK = 482  # tokens: about the positions of four rows
PACKS = 5  # of a step: about the tokens of a batch
WARM = 2  # steps that are not timed
WAYS = {
    "bare loop, like lengths together": "bare",
    "ours, like lengths together": "ours-padded",
    "ours, packed": "ours-packed",
    "HF Trainer, padded": "hf-padded",
    "HF Trainer, packed": "hf-packed",
    "TRL, padded": "trl-padded",
    "TRL, packed": "trl-packed",
}
Report = dict[str, Any]


def rows(count: int) -> list[list[int]]:
    """Sequences of random tokens, 31 to 241 of them, 136 on average."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(SHORTEST, LONGEST + 1, count)
    return [generator.integers(3, VOCABULARY, length).tolist() for length in lengths]


def new_model() -> Any:
    """A Llama of 5 million weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=688, num_hidden_layers=LAYERS, num_attention_heads=4,
        max_position_embeddings=1024, tie_word_embeddings=False, use_cache=False, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def limit(model: Any) -> float:
    """Tokens a CPU second that the matrix products of a step alone allow: forward, and backward to inputs and weights.

    The median of some turns, not the best: on a busy machine the steps are not computed in its best moments either.
    """
    import torch

    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    positions = BATCH * (SHORTEST + LONGEST) // 2
    kinds: dict[tuple[int, ...], int] = {}
    for layer in layers:
        kinds[tuple(layer.weight.shape)] = kinds.get(tuple(layer.weight.shape), 0) + 1
    turns: list[float] = []
    for _ in range(9):
        total = 0.0
        for (out, into), count in kinds.items():
            inputs, weight, slope = torch.ones(positions, into), torch.ones(out, into), torch.ones(positions, out)
            started = time.process_time()
            inputs @ weight.T, slope @ weight, slope.T @ inputs
            total += count * (time.process_time() - started)
        turns.append(total)
    return positions / statistics.median(turns)


def timed(step: Callable[[int], int], steps: int) -> tuple[int, float]:
    """Tokens and CPU seconds of the steps that count; `step` returns its tokens."""
    tokens, started = 0, 0.0
    for number in range(steps + WARM):
        if number == WARM:
            tokens, started = 0, time.process_time()
        tokens += step(number)
    return tokens, time.process_time() - started


def bare(steps: int) -> tuple[int, float]:
    """Forward, backward, AdamW: nothing else."""
    import torch

    from tasks.batching import epoch_batches
    from tasks.training.data import collate

    model, sequences = new_model(), _sequences(rows(BATCH * (steps + WARM)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = epoch_batches(sequences.lengths, BATCH, 0, 0)

    def step(number: int) -> int:
        ids, mask, labels = collate(sequences, batches[number], 0)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return int(mask.sum())

    return timed(step, steps)


def ours(steps: int, packed: bool, accumulation: int = 1, made: Path | None = None) -> tuple[int, float, list[float]]:
    """This project's loop around DeepSpeed's engine; the losses too."""
    with tempfile.TemporaryDirectory() as scratch:
        loop = started_loop(_job(made or Path(scratch), steps, packed, accumulation))
        losses: list[float] = []

        def step(number: int) -> int:
            before = loop.progress.tokens
            losses.append(loop._train_step(number))
            return int(loop.progress.tokens - before)

        return *timed(step, steps), losses


def started_loop(job: Any) -> Any:
    """The loop of one rank in this process, ready for its first step."""
    import torch.distributed as dist

    from tasks.process import hush
    from tasks.training import engine
    from tasks.training.loop import Loop
    from tasks.training.reading import read_sequences
    from tasks.training.worker import _model

    hush()
    if not dist.is_initialized():
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        engine.start_processes(job.plan)
    config = engine.configuration(job.plan, job.spec)
    started = engine.start(_model(job), config, job.plan, job.spec, 1e-4)
    loop = Loop(job, started, read_sequences(job.train_file), read_sequences(job.validation_file))
    loop._get_ready()
    return loop


def write_rows(folder: Path, made: list[list[int]]) -> None:
    """The rows to learn from, every token of them, and no validation rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", made), ("validation", [])):
        columns = {"input_ids": pa.array(part, pa.list_(pa.int32())),
                   "supervised": pa.array([[1] * len(row) for row in part], pa.list_(pa.int8()))}  # fmt: skip
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def _job(folder: Path, steps: int, packed: bool, accumulation: int) -> Any:
    from tasks.contracts import HardwarePlan
    from tasks.models import describe
    from tasks.training.job import TrainingJob
    from tasks.training.methods.full import Full
    from tasks.training.spec import AdvancedTraining, TrainingSpec

    write_rows(folder, rows(BATCH * (steps + WARM)))
    new_model().save_pretrained(folder / "base")
    size = PACKS if packed else BATCH
    plan = HardwarePlan(
        accelerator="cpu", device_name="benchmark", devices=1, backend="gloo", threads=1, zero_stage=0,
        micro_batch=-(-size // accumulation), accumulation=accumulation, precision="fp32", activation_checkpointing=False,
        memory_gib=0, hours=0, cost_usd=0, energy_kwh=0, reasons=(),
    )  # fmt: skip
    advanced = AdvancedTraining(checkpoint_steps=10**6, validate_steps=10**6, schedule="constant", warmup_share=0.0)
    spec = TrainingSpec(
        max_steps=steps + WARM, batch_size=size, packing=packed, max_length=PACK if packed else 0, learning_rate=1e-4,
        advanced=advanced,
    )  # fmt: skip
    return TrainingJob(
        base=describe("benchmark", folder / "base"), train_file=folder / "train.parquet", method=Full(), spec=spec, plan=plan,
        validation_file=folder / "validation.parquet", seed=0, pad_token_id=0, checkpoints=folder / "checkpoints",
        out=folder / "out", key="benchmark",
    )  # fmt: skip


def _sequences(made: list[list[int]]) -> Any:
    from tasks.training.reading import Sequences

    flat = np.concatenate(made).astype(np.int32)
    return Sequences(flat, np.ones(len(flat), np.int8), np.cumsum([0, *(len(row) for row in made)]))


def hugging_face(steps: int, packed: bool) -> tuple[int, float]:
    """The HF Trainer, its own collators: padding, or all rows of a batch put one behind the other."""
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    made = rows(BATCH * (steps + WARM))
    examples = [{"input_ids": row, "labels": row} for row in made]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps + WARM, per_device_train_batch_size=BATCH, train_sampling_strategy="sequential",
            use_cpu=True, learning_rate=1e-4, logging_steps=10**6, save_strategy="no", report_to="none", disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        watch = _watch(steps)
        Trainer(
            model=new_model(), args=arguments, train_dataset=examples, callbacks=[watch],
            data_collator=DataCollatorWithFlattening() if packed else _pad,
        ).train()  # fmt: skip
    return sum(len(row) for row in made[BATCH * WARM :]), watch.seconds


def trl(steps: int, packed: bool) -> tuple[int, float]:
    """TRL's SFTTrainer, padded or with its own packing."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    made = rows(BATCH * (steps + WARM))
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder, max_steps=steps + WARM, per_device_train_batch_size=PACKS if packed else BATCH, use_cpu=True,
            packing=packed, max_length=PACK, learning_rate=1e-4, logging_steps=10**6, save_strategy="no",
            report_to="none", disable_tqdm=True, train_sampling_strategy="sequential", bf16=False, gradient_checkpointing=False,
        )  # fmt: skip
        watch = _watch(steps)
        trainer = SFTTrainer(
            model=new_model(), args=arguments, train_dataset=Dataset.from_dict({"input_ids": made}), callbacks=[watch],
            processing_class=PreTrainedTokenizerFast(tokenizer_object=_words(), pad_token="<0>", eos_token="<1>"),  # noqa: S106
        )  # fmt: skip
        lengths = [len(row["input_ids"]) for row in trainer.train_dataset]
        trainer.train()
    size = PACKS if packed else BATCH
    return sum(lengths[size * WARM : size * (steps + WARM)]), watch.seconds


def _words() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({f"<{number}>": number for number in range(VOCABULARY)}, unk_token="<2>"))  # noqa: S106


def _pad(examples: list[dict[str, list[int]]]) -> dict[str, Any]:
    import torch

    longest = max(len(example["input_ids"]) for example in examples)

    def filled(values: list[list[int]], by: int) -> Any:
        return torch.tensor([row + [by] * (longest - len(row)) for row in values])

    ids = [example["input_ids"] for example in examples]
    return {
        "input_ids": filled(ids, 0),
        "attention_mask": filled([[1] * len(row) for row in ids], 0),
        "labels": filled(ids, -100),
    }


def _watch(steps: int) -> Any:
    """A callback that holds the CPU seconds from the end of the last warm step to the end of the last one."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        seconds = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == WARM:
                self.seconds = -time.process_time()
            elif state.global_step == steps + WARM:
                self.seconds += time.process_time()

    return Watch()


def measure(way: str, steps: int) -> Report:
    """One way, in this process."""
    import torch

    torch.set_num_threads(1)
    before = limit(new_model())
    kind, _, packing = way.partition("-")
    packed = packing == "packed"
    if kind == "bare":
        tokens, seconds = bare(steps)
    elif kind == "ours":
        tokens, seconds, _ = ours(steps, packed)
    else:
        tokens, seconds = (hugging_face if kind == "hf" else trl)(steps, packed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"speed": tokens / seconds, "limit": (before + limit(new_model())) / 2, "mib": peak, "seconds": seconds}


def measure_accumulation(steps: int) -> Report:
    """The same batches in one, four and sixteen passes."""
    import torch

    torch.set_num_threads(1)
    found = {}
    for accumulation in (1, 4, 16):
        tokens, seconds, losses = ours(steps, packed=False, accumulation=accumulation)
        found[str(accumulation)] = {"speed": tokens / seconds, "losses": losses}
    return found


def measure_start(_steps: int) -> Report:
    """From the order to train to the end of the first step, torchrun and all imports included."""
    from tasks.training.launch import launch

    reached: list[float] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "metrics" and not reached:
            reached.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        job = _job(Path(folder), 1, packed=False, accumulation=1)
        started = time.monotonic()
        launch(job, on_event=on_event)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": reached[0] - started, "cpu": used.ru_utime + used.ru_stime}


def in_child(python: str, part: str, steps: int) -> Report:
    """What `part` measures, in a process of its own."""
    variables = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    command = [python, __file__, "--part", part, "--steps", str(steps)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print(done.stderr[-2000:], file=sys.stderr)
        return {}
    report: Report = json.loads(lines[-1])
    return report


def table(found: dict[str, Report]) -> Iterator[str]:
    """The lines of the table of ways."""
    yield "| way | tokens a CPU second | share of the limit | times the HF Trainer, padded | peak MiB |"
    yield "|---|---:|---:|---:|---:|"
    base = found.get("HF Trainer, padded", {}).get("speed")
    for name, report in found.items():
        if report:
            times = f"{report['speed'] / base:.2f}" if base else "-"
            share = report["speed"] / report["limit"]
            yield f"| {name} | {report['speed']:,.0f} | {share:.0%} | {times} | {report['mib']:,.0f} |"


def main() -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps that are timed")
    parser.add_argument("--trl", default="", help="an interpreter with TRL")
    parser.add_argument("--ways", default=",".join(WAYS.values()), help="which, with commas")
    parser.add_argument("--accumulation", action="store_true", help="also 1, 4 and 16 passes a step")
    parser.add_argument("--start-up", action="store_true", help="also the seconds to the first step")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        parts = {"accumulation": measure_accumulation, "start": measure_start}
        known = parts.get(options.part)
        print(json.dumps(known(options.steps) if known else measure(options.part, options.steps)))
        return
    print(f"load average before: {os.getloadavg()[0]:.1f}; {options.steps} steps of {BATCH} sequences, or {PACKS} packs\n")
    found: dict[str, Report] = {}
    for name, way in WAYS.items():
        if way in options.ways.split(",") and (options.trl or not way.startswith("trl")):
            found[name] = in_child(options.trl if way.startswith("trl") else sys.executable, way, options.steps)
            print(f"{name}: {found[name]}", file=sys.stderr)
    print("\n".join(table(found)))
    if options.accumulation:
        passes = in_child(sys.executable, "accumulation", max(4, options.steps // 4))
        for number, report in passes.items():
            apart = max(abs(a - b) for a, b in zip(report["losses"], passes["1"]["losses"], strict=True))
            print(f"accumulation {number}: {report['speed']:,.0f} tokens a CPU second, losses apart by at most {apart:.1e}")
    if options.start_up:
        start = in_child(sys.executable, "start", 1)
        print(f"to the first step: {start['seconds']:.1f} s; {start['cpu']:.1f} CPU seconds of the whole run of three steps")
    print(f"\nload average after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
