"""What packing gains: tokens a CPU second of training steps, and how fast and how full packs are planned. Prints two tables.

    .venv/bin/python benchmarks/packing.py [--steps 4] [--repeats 5]

The model is of the quickstart's kind, in fp32 on the CPU. Lengths are drawn log-normally, most of them short and few long, as
instruction data has them. Every way of batching trains on about as many tokens a step, in passes of about as many positions;
a way that pads more computes more positions for the same tokens. One thread and CPU seconds, since a busy machine bends others.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.batching import Batches, epoch_batches, fill
from tasks.packing import pack
from tasks.training.data import collate, collate_packs
from tasks.training.losses import summed_cross_entropy
from tasks.training.reading import Sequences

CAPACITY, MEAN, VOCABULARY = 512, 122, 2048
POSITIONS = 4 * CAPACITY  # of a step, about


def log_normal(count: int, longest: int, seed: int = 0) -> np.ndarray:
    """Lengths from 1 to `longest` with a mean of about 122 tokens."""
    drawn = np.random.default_rng(seed).lognormal(np.log(MEAN) - 0.5, 1.0, count).round()
    return np.clip(drawn, 1, longest).astype(np.int64)


def made_up(count: int) -> Sequences:
    """Sequences of random tokens, the second half of each learned."""
    lengths = log_normal(count, CAPACITY)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, offsets[-1]).astype(np.int32)
    supervised = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.int8)
    return Sequences(tokens, supervised, offsets)


Pass = tuple[dict[str, torch.Tensor], torch.Tensor, int]


def packed(sequences: Sequences) -> tuple[float, Iterator[list[Pass]]]:
    """Fill and steps of packs, two to a pass."""
    packs = pack(sequences.lengths, CAPACITY, seed=0, epoch=0)
    batches = epoch_batches(packs.lengths, 2, 0, 0)

    def steps() -> Iterator[list[Pass]]:
        for at in range(0, len(batches) - 1, 2):
            parts = [packs.rows(batch) for batch in batches[at : at + 2]]
            made = [(collate_packs(sequences, part, 0), int(part.lengths.sum())) for part in parts]
            yield [({"input_ids": ids, "position_ids": where}, labels, count) for (ids, where, labels), count in made]

    return fill(packs.lengths, batches), steps()


def padded(sequences: Sequences, batches: Batches) -> tuple[float, Iterator[list[Pass]]]:
    """Fill and steps of padded rows, each of the batches a pass."""
    lengths = sequences.lengths

    def steps() -> Iterator[list[Pass]]:
        step: list[Pass] = []
        for batch in batches:
            ids, mask, labels = collate(sequences, batch, 0)
            step.append(({"input_ids": ids, "attention_mask": mask}, labels, int(lengths[batch].sum())))
            if sum(count for _, _, count in step) >= POSITIONS:
                yield step
                step = []

    return fill(lengths, batches), steps()


def time_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: list[Pass]) -> tuple[int, float]:
    """Tokens and CPU seconds of one optimizer step."""
    started = time.process_time()
    for inputs, labels, _ in step:
        loss = summed_cross_entropy(model(**inputs, use_cache=False).logits, labels)
        (loss / POSITIONS).backward()
    optimizer.step()
    optimizer.zero_grad()
    return sum(count for _, _, count in step), time.process_time() - started


def measure_training(steps: int, repeats: int) -> None:
    """Print tokens a CPU second of each way of batching."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=2, num_attention_heads=6,
        max_position_embeddings=CAPACITY, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sequences = made_up(6_000)
    rows = 8
    order = np.random.default_rng(0).permutation(len(sequences))
    random = [order[at : at + rows] for at in range(0, len(order), rows)]
    ways: dict[str, Callable[[], tuple[float, Iterator[list[Pass]]]]] = {
        "padded, in random order": lambda: padded(sequences, random),
        "padded, alike lengths together": lambda: padded(sequences, epoch_batches(sequences.lengths, rows, 0, 0)),
        f"packed to {CAPACITY} tokens": lambda: packed(sequences),
    }
    feeds = {name: way() for name, way in ways.items()}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for name in ways:
        time_step(model, optimizer, next(feeds[name][1]))  # the first is slower
    for _ in range(repeats):
        for name, (_, feed) in feeds.items():
            timed = [time_step(model, optimizer, next(feed)) for _ in range(steps)]
            speeds[name].append(sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed))
    base = statistics.median(speeds["padded, in random order"])
    print(f"{len(sequences)} sequences of {sequences.lengths.mean():.0f} tokens on average, at most {CAPACITY}:\n")
    print("| batches | fill | tokens a CPU second, median | range | times |\n|---|---:|---:|---:|---:|")
    for name, values in speeds.items():
        middle = statistics.median(values)
        span = f"{min(values):,.0f} to {max(values):,.0f}"
        print(f"| {name} | {feeds[name][0]:.1%} | {middle:,.0f} | {span} | {middle / base:.2f} |")


def measure_planning(repeats: int) -> None:
    """Print rows a CPU second and fill of the plan."""
    print("\n| documents | longest | packs | fill | planned a CPU second |\n|---:|---:|---:|---:|---:|")
    for count, longest in ((100_000, 2048), (1_000_000, 2048), (100_000, 32_768)):
        lengths, seconds = log_normal(count, longest), []
        for epoch in range(repeats):
            started = time.process_time()
            packs = pack(lengths, longest, seed=0, epoch=epoch)
            seconds.append(time.process_time() - started)
        share = lengths.sum() / (len(packs) * longest)
        print(f"| {count:,} | {longest:,} | {len(packs):,} | {share:.4f} | {count / statistics.median(seconds):,.0f} |")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of each way in a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average before: {os.getloadavg()[0]:.1f}\n")
    measure_training(options.steps, options.repeats)
    measure_planning(options.repeats)


if __name__ == "__main__":
    main()
