"""Preparing the same rows with tuneflow and with TRL's SFTTrainer: rows a CPU second side by side, and the sequences compared.

`python benchmarks/data_peers.py --data FOLDER --python /path/of/a/venv/with/trl/bin/python [--rows 6000]`

Both load JSON lines of conversations, render the same template, tokenize with the same tokenizer, mark what is learned, pack to
2,048 tokens and write the packs. Each runs in a process of its own with one thread, first over a few rows, which do not count:
imports and whatever else is done once. Each is run twice, and the better run is shown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LENGTH = 2048
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    """Measure both and print the tables; with --one, be one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with gpteacher, alpaca_cot and gsm8k")
    parser.add_argument("--python", help="python of an environment with trl")
    parser.add_argument("--rows", type=int, default=6_000)
    parser.add_argument("--one", choices=("tuneflow", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        prepare = {"tuneflow": prepare_own, "trl": prepare_trl}[options.one]
        prepare(options.folder, "few.jsonl")
        print(json.dumps(prepare(options.folder, "rows.jsonl")))
        return
    if not options.data or not options.python:
        parser.error("--data and --python are needed")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        characters = write_input(folder, options.data, options.rows)
        print(f"{options.rows:,} rows, {characters / options.rows:.0f} characters each, load {os.getloadavg()[0]:.1f}\n")
        found = {"tuneflow": measured("tuneflow", sys.executable, folder), "trl": measured("trl", options.python, folder)}
        report(found, options.rows)
        compare(folder)


def measured(name: str, python: str, folder: Path, times: int = 2) -> dict[str, Any]:
    """What a process of its own says; the better of some runs."""
    variables = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [python, str(Path(__file__).resolve()), "--one", name, "--folder", str(folder)]
    runs = []
    for _ in range(times):
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return min(runs, key=lambda run: float(run["seconds"]["all"]))


def write_input(folder: Path, data: Path, count: int) -> int:
    """Write rows.jsonl and a tokenizer with the template; the characters of the rows."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from data import make_tokenizer, write_rows  # type: ignore[import-not-found]

    path, characters = write_rows(folder, data, count)
    with path.open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file]
    tokenizer = make_tokenizer(folder, path)
    written = tokenizer / "chat_template.jinja"
    written.write_text(_TEMPLATE, encoding="utf-8")
    path.unlink()
    turns = [({"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}) for row in rows]
    lines = [json.dumps({"messages": both}, ensure_ascii=False) + "\n" for both in turns]
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "few.jsonl").write_text("".join(lines[:50]), encoding="utf-8")
    return int(characters)


class Watch:
    """CPU seconds of each part, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = self.last = time.process_time()

    def part(self, name: str) -> None:
        """What was used since the last part."""
        now = time.process_time()
        self.seconds[name], self.last = now - self.last, now
        self.seconds["all"] = now - self.started


def prepare_own(folder: Path, source: str) -> dict[str, Any]:
    """Load, tokenize, mark, pack and write with tuneflow."""
    sys.path.insert(0, str(ROOT))
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.contracts import ModelRef
    from tasks.data import loading, shards
    from tasks.data.spec import DataSpec
    from tasks.data.token_setup import decide
    from tasks.data.tokenizing import tokenize_shard
    from tasks.models import load_tokenizer
    from tasks.packing import pack

    out = Path(tempfile.mkdtemp(dir=folder))
    base = ModelRef(
        uri="bench", location=str(folder / "tokenizer"), sha256="0" * 64, parameters=1, architecture="none",
        max_positions=_LENGTH, vocabulary=40_000, bytes=1, hidden_size=1, layers=1,
    )  # fmt: skip
    watch = Watch()
    loading.load("rows", DataSpec(source=str(folder / source)), out, "raw", {})
    number = 0
    for path in shards.shard_paths(out / "rows"):  # what cleaning adds: the number of each row
        table = shards.read_shard(path)
        shards.write_shard(out / "train" / path.name, table.append_column("row", pa.array(range(number, number + len(table)))))
        number += len(table)
    watch.part("load")
    setup, reasons = decide(load_tokenizer(base.location), base, "chat", _LENGTH, "cut", [out / "train"])
    watch.part("compare encoders and template")
    for path in shards.shard_paths(out / "train"):
        tokenize_shard(path, out / "tokens" / "train" / path.name, setup)
    watch.part("template, tokens, mask")
    whole = pa.concat_tables([pq.read_table(path) for path in shards.shard_paths(out / "tokens" / "train")])
    columns = whole.select(["input_ids", "supervised"]).combine_chunks()
    packs = pack(columns.column("input_ids").combine_chunks().value_lengths().to_numpy(), _LENGTH, 0, 0)
    packed = columns.take(pa.array(packs.documents))
    rows = pa.table({name: _rows_of(packed.column(name).combine_chunks(), packs.offsets) for name in columns.column_names})
    shards.write_shard(out / "packed" / "part-00000.parquet", rows)
    watch.part("pack, write")
    shards.write_shard(folder / "tuneflow.parquet", columns)
    return {"seconds": watch.seconds, "packs": len(packs), "fill": float(packs.lengths.mean()) / _LENGTH, "notes": reasons}


def _rows_of(documents: Any, offsets: Any) -> Any:
    """Documents one after the other as rows."""
    import numpy as np
    import pyarrow as pa

    starts = np.concatenate([[0], np.cumsum(documents.value_lengths().to_numpy())])
    return pa.LargeListArray.from_arrays(pa.array(starts[offsets]), documents.flatten())


def prepare_trl(folder: Path, source: str) -> dict[str, Any]:
    """The same with TRL, as its documentation shows it."""
    import datasets
    import trl
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    tiny = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=_LENGTH,
    )  # fmt: skip
    model = LlamaForCausalLM(tiny)
    out = tempfile.mkdtemp(dir=folder)

    def prepared(watch: Watch, packing: bool) -> Any:
        rows = datasets.load_dataset("json", data_files=str(folder / source), split="train", cache_dir=f"{out}/{packing}")
        watch.part("load")
        settings = trl.SFTConfig(
            output_dir=out, max_length=_LENGTH, packing=packing, assistant_only_loss=True, use_cpu=True, bf16=False,
            report_to=[], disable_tqdm=True,
        )  # fmt: skip
        trainer = trl.SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer)
        watch.part("template, tokens, mask, pack")
        trainer.train_dataset.save_to_disk(f"{out}/written-{packing}")
        watch.part("write")
        return trainer.train_dataset

    watch = Watch()
    packs = prepared(watch, packing=True)
    seconds = dict(watch.seconds)
    lengths = [len(ids) for ids in packs["input_ids"]]
    prepared(Watch(), packing=False).to_parquet(str(folder / "trl.parquet"))
    fill = sum(lengths) / len(lengths) / _LENGTH
    return {"seconds": seconds, "packs": len(lengths), "fill": fill, "notes": [f"trl {trl.__version__}"]}


def report(found: dict[str, dict[str, Any]], rows: int) -> None:
    """Print what each used, and how much faster one is."""
    print("| tool | part | CPU s | rows per CPU s |\n|---|---|---:|---:|")
    for name, run in found.items():
        for part, used in run["seconds"].items():
            if part != "all":
                print(f"| {name} | {part} | {used:.2f} | {rows / used:,.0f} |")
        total = run["seconds"]["all"]
        print(f"| **{name}** | all | **{total:.2f}** | **{rows / total:,.0f}** |")
    own, trl = (found[name]["seconds"]["all"] for name in ("tuneflow", "trl"))
    once = found["tuneflow"]["seconds"]["compare encoders and template"]
    print(
        f"\ntuneflow is {trl / own:.1f} times as fast; {trl / (own - once):.1f} times without the comparison, made once a set."
    )
    for name, run in found.items():
        print(f"{name}: {run['packs']:,} packs, {run['fill']:.2%} full; {'; '.join(run['notes'])}")


def compare(folder: Path) -> None:
    """Print how many sequences are the same, and why the others are not."""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    own, trl = pq.read_table(folder / "tuneflow.parquet"), pq.read_table(folder / "trl.parquet")
    ours = zip(own.column("input_ids").to_pylist(), own.column("supervised").to_pylist(), strict=True)
    marks = ([int(label != -100) for label in labels] for labels in trl.column("labels").to_pylist())
    theirs = zip(trl.column("input_ids").to_pylist(), marks, strict=True)
    kinds, shown = Counter[str](), dict[str, str]()
    for one, other in zip(ours, theirs, strict=True):
        kind = difference(one, other, tokenizer.decode)
        kinds[kind] += 1
        shown.setdefault(kind, _first(one, other, tokenizer.decode))
    print("\n| sequences | rows | the first of them |\n|---|---:|---|")
    for kind, count in kinds.most_common():
        print(f"| {kind} | {count:,} | {shown[kind] if kind != SAME else ''} |")


SAME = "the same tokens and marks"
Sequence = tuple[list[int], list[int]]


def difference(one: Sequence, other: Sequence, decode: Callable[[list[int]], str]) -> str:
    """How two sequences of one row differ."""
    if one == other:
        return SAME
    whole = len(other[0])
    if one == (other[0][: len(one[0])], other[1][: len(one[1])]) and not any(other[1][len(one[0]) :]):
        return f"TRL's goes on after the last learned token with {decode(other[0][len(one[0]) :])!r}, not learned"
    if whole == _LENGTH or len(one[0]) == _LENGTH:
        return "cut at the longest length, whose rest TRL keeps"
    if decode(one[0]) == decode(other[0])[: len(decode(one[0]))]:
        learned = [decode([token for token, mark in zip(*side, strict=True) if mark]) for side in (one, other)]
        if learned[0].strip() == learned[1].strip():
            return "the same text: TRL's tokens reach over the border of prompt and answer"
        return "the same text, other parts of it learned"
    return "other text"


def _first(one: Sequence, other: Sequence, decode: Callable[[list[int]], str]) -> str:
    """Where two sequences first differ."""
    at = next(_unlike(one, other), min(len(one[0]), len(other[0])))
    begin = max(0, at - 2)
    sides = (f"{[decode([token]) for token in side[0][begin : at + 3]]}" for side in (one, other))
    return " / ".join(sides).replace("|", "\\|").replace("\n", "\\n")


def _unlike(one: Sequence, other: Sequence) -> Iterator[int]:
    pairs = zip(zip(*one, strict=True), zip(*other, strict=True), strict=False)
    return (place for place, (left, right) in enumerate(pairs) if left != right)


if __name__ == "__main__":
    main()
