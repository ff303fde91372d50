"""Rows a CPU second of each step that prepares data, with one process and with several: load to tokens, as a run does it.

`python benchmarks/data.py --data FOLDER [--rows 50000] [--processes 1 2]` takes the files of FOLDER/gpteacher, alpaca_cot
and gsm8k, repeated with most of their words changed up to that many rows, and a 32k byte-level BPE trained on a part of them.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

T = TypeVar("T")
_VOCABULARY = 32_000
_PARTS = re.compile(r"\s+|\S+")
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gpteacher, alpaca_cot and gsm8k")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shard-rows", type=int, default=10_000, help="as many shards as processes, or many more, share well")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(prepared(options.one, options.processes[0], options.shard_rows)))
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        source, characters = write_rows(Path(folder), options.data, options.rows)
        make_tokenizer(Path(folder), source)
        print(f"{options.rows:,} rows, {characters / options.rows:.0f} characters each, load {os.getloadavg()[0]:.1f}\n")
        found = {count: measured(Path(folder), options, count) for count in options.processes}
    report(found, options.rows)


def measured(folder: Path, options: argparse.Namespace, processes: int) -> dict[str, Any]:
    """What a process of its own says, which has loaded nothing yet."""
    command = [sys.executable, str(Path(__file__).resolve()), "--data", str(options.data), "--one", str(folder)]
    command += ["--processes", str(processes), "--shard-rows", str(options.shard_rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prepared(folder: Path, processes: int, shard_rows: int) -> dict[str, Any]:
    """The seconds of each step in this process and those that it keeps, and what came of the rows."""
    from tasks.data.running import processes_kept

    with processes_kept():
        steps = chain(folder, folder / "rows.jsonl", folder / "tokenizer", processes, shard_rows)
    ledger, tokens = steps["clean"][2].ledger, steps["tokenize"][2]
    dropped = ", ".join(f"{count.reason} {count.rows:,}" for count in ledger.dropped)
    told = f"kept {ledger.kept:,} of {ledger.rows_in:,} ({dropped}); tokens {tokens.train.tokens:,} to train"
    return {"steps": {name: [used, wall] for name, (used, wall, _) in steps.items()}, "told": told, "sha256": tokens.sha256}


def rows_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Prompt and answer of every row."""
    files = sorted([*folder.glob("gpteacher/*.json"), *folder.glob("alpaca_cot/*.json"), *folder.glob("gsm8k/train.jsonl")])
    for path in files:
        text = path.read_text(encoding="utf-8")
        for row in map(json.loads, text.splitlines()) if path.suffix == ".jsonl" else json.loads(text):
            prompt = "\n".join(filter(None, [row.get("instruction") or row.get("question"), row.get("input")]))
            yield prompt, row.get("output") or row.get("response") or row.get("answer")


def parts_of(text: str) -> list[str]:
    """Words and what stands between them."""
    return _PARTS.findall(text)


def write_rows(folder: Path, data: Path, count: int) -> tuple[Path, int]:
    """Write so many rows as JSON lines; from the second round on most words are others, or they would be near-duplicates."""
    path, characters, random = folder / "rows.jsonl", 0, Random(0)  # noqa: S311  (the same rows each time)
    every = list(rows_of(data))
    words = sorted({word for prompt, _ in every[:3000] for word in prompt.split()})

    def changed(text: str) -> str:
        return "".join(part if part.isspace() or random.random() < 0.3 else random.choice(words) for part in parts_of(text))

    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(islice(cycle(every), count)):
            prompt, answer = row if number < len(every) else map(changed, row)
            characters += len(prompt) + len(answer)
            file.write(json.dumps({"instruction": prompt, "output": answer}, ensure_ascii=False) + "\n")
    return path, characters


def make_tokenizer(folder: Path, source: Path) -> Path:
    """A byte-level BPE with a ChatML template; the folder it is saved in."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    with source.open(encoding="utf-8") as file:
        tokenizer.train_from_iterator(islice(file, 12_000), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")  # noqa: S106
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(str(folder / "tokenizer"))
    return folder / "tokenizer"


def chain(
    folder: Path,
    source: Path,
    tokenizer: Path,
    processes: int,
    shard_rows: int,
    begin: Callable[[str], object] = str,
    keep: bool = False,
) -> dict[str, tuple[float, float, Any]]:
    """CPU seconds and wall seconds of each step, and its value.

    Args:
        folder: to write to.
        source: the rows.
        tokenizer: folder of the tokenizer.
        processes: that share the work.
        shard_rows: rows of a shard; 0: as a run has them.
        begin: told the name of each step as it begins.
        keep: whether what was written stays.
    """
    from tasks.contracts import ModelRef
    from tasks.data import checks, cleaning, loading, splitting, tokenizing
    from tasks.data.running import several
    from tasks.data.spec import DataSpec

    base = ModelRef(
        uri="bench", location=str(tokenizer), sha256="0" * 64, parameters=1, architecture="none", max_positions=2048,
        vocabulary=_VOCABULARY + 100, bytes=1, hidden_size=1, layers=1,
    )  # fmt: skip
    spec, found = DataSpec(source=str(source)), dict[str, tuple[float, float, Any]]()
    out = folder / f"out-{processes}"

    def step(name: str, work: Callable[[], T]) -> T:
        begin(name)
        before, started = cpu(), time.monotonic()
        value = work()
        found[name] = (cpu() - before, time.monotonic() - started, value)
        return value

    def place(name: str) -> Path:
        return out / name

    def pooled(name: str, work: Callable[[Any], T]) -> T:
        def whole() -> T:
            with several(processes) as run:
                return work(run)

        return step(name, whole)

    raw = pooled("load", lambda run: loading.load("b", spec, place("raw"), "raw", {}, run=run, shard_rows=shard_rows))
    pooled(
        "validate",
        lambda run: checks.validate(raw, spec.validation, spec.cleaning, place("raw"), place("checked"), run),
    )
    clean = pooled("clean", lambda run: cleaning.clean(raw, spec.cleaning, place("raw"), place("clean"), "clean", run))
    splits = pooled(
        "split",
        lambda run: splitting.split(clean, spec.splitting, (1.0,), place("clean"), place("split"), "split", 0, run),
    )
    files = {name: place("split") / name for name in ("train", "validation", "test")}
    pooled(
        "tokenize",
        lambda run: tokenizing.tokenize(
            splits, base, files, place("tokens"), "tokens", max_length=2048, truncation="cut", batch_size=16, seed=0, run=run
        ),
    )
    if not keep:
        shutil.rmtree(out)
    return found


def cpu() -> float:
    """CPU seconds of this process, of those that it started, and of those that have ended."""
    import psutil

    alive = (child.cpu_times() for child in psutil.Process().children(recursive=True))
    used, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    times = used.ru_utime + used.ru_stime + ended.ru_utime + ended.ru_stime
    return times + sum(times.user + times.system for times in alive)


def report(found: dict[int, dict[str, Any]], rows: int) -> None:
    """Print a table a number of processes, and whether all gave the same."""
    for processes, one in found.items():
        print(f"{processes} process{'es' if processes > 1 else ''}\n")
        print("| step | CPU s | wall s | rows per CPU s | share |\n|---|---:|---:|---:|---:|")
        total = sum(used for used, _ in one["steps"].values())
        for name, (used, wall) in one["steps"].items():
            print(f"| {name} | {used:.1f} | {wall:.1f} | {rows / used:,.0f} | {used / total:.0%} |")
        print(f"| **all** | {total:.1f} | {sum(wall for _, wall in one['steps'].values()):.1f} | **{rows / total:,.0f}** | |\n")
        print(one["told"] + "\n")
    print("same sha256 for all: " + str(len({one["sha256"] for one in found.values()}) == 1))


if __name__ == "__main__":
    main()
