"""Memory, disk and time of the whole chain (load to tokens) by the size of the input, and what follows for 100 GB.

`python benchmarks/data_scale.py --data FOLDER [--sizes 0.1 1 3] [--processes 2]` makes that many GB of JSON lines from the rows
of FOLDER/gpteacher, alpaca_cot and gsm8k with most of their words changed, and prepares them. Memory is anonymous memory
(RssAnon) of all processes together, looked at ten times a second; pages of mapped files, which the system takes back, are not
in it.

3 GB need about 15 GB of disk for temporary files, and half an hour on two cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

_GB, _GOAL = 10**9, 100.0
_WHOLE = 0.5 * _GB  # from here on every process has full shards
_CHANGED = 0.7  # of the words: else the rows would be near-duplicates
STEPS = ("load", "validate", "clean", "split", "tokenize")
_ROUND = 5_000  # rows of one round of changes


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with gpteacher, alpaca_cot and gsm8k")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 1.0, 3.0], help="GB of input")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for temporary files; the system's where it is not given")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(prepare(options.one, options.processes)))
        return
    if not options.data:
        parser.error("--data is needed")
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        print(f"{options.processes} processes, load {os.getloadavg()[0]:.1f}\n")
        report([measured(Path(place), options.data, size, options.processes) for size in sorted(options.sizes)])


@dataclass(frozen=True)
class Measured:
    """What one size took; sizes in bytes."""

    size: int
    rows: int
    kept: int
    cpu: float
    wall: float
    memory: int
    disk: int
    result: int
    peaks: dict[str, int]


def measured(folder: Path, data: Path, size: float, processes: int) -> Measured:
    """Prepare so many GB in a process of its own, and look at it meanwhile."""
    source = folder / "rows.jsonl"
    (folder / "step").unlink(missing_ok=True)
    rows = write_noised(source, data, int(size * _GB))
    variables = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", str(folder), "--processes", str(processes)]
    with subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True) as child:
        watch = Watch(child.pid, folder)
        watch.start()
        said, _ = child.communicate()
        watch.join()
    if child.returncode:
        raise SystemExit(f"The chain failed at {size} GB with exit code {child.returncode}.")
    facts = json.loads(said.splitlines()[-1])
    used = source.stat().st_size
    source.unlink()
    return Measured(
        used, rows, facts["kept"], facts["cpu"], facts["wall"], watch.memory, watch.disk - used, facts["bytes"], watch.peaks
    )


class Watch(threading.Thread):
    """The most memory that a process and its descendants have at a time, the most disk that a folder takes, and when."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__()
        self.pid, self.folder = pid, folder
        self.memory = self.disk = 0
        self.peaks: dict[str, int] = {}

    def run(self) -> None:
        """Look until it has ended."""
        from tasks.shim import descendants

        looks = 0
        while found := [anonymous(pid) for pid in (self.pid, *descendants(self.pid))]:
            if not (now := sum(found)):
                return
            step = read(self.folder / "step")
            if step in STEPS:
                self.memory = max(self.memory, now)
                self.peaks[step] = max(self.peaks.get(step, 0), now)
            if looks % 20 == 0:
                self.disk = max(self.disk, size_of(self.folder))
            looks += 1
            time.sleep(0.1)


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory of a process; 0 where it has ended."""
    for line in read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def read(path: Path) -> str:
    """The text of a file, "" where it is gone."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder that is being written to."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def prepare(folder: Path, processes: int) -> dict[str, Any]:
    """All steps; the name of the one under way stands in the file `step`."""
    from data import chain, make_tokenizer

    from tasks.data.running import processes_kept

    source, tokenizer, out = folder / "rows.jsonl", folder / "tokenizer", folder / f"out-{processes}"
    if not tokenizer.exists():
        (folder / "step").write_text("make a tokenizer", encoding="utf-8")
        make_tokenizer(folder, source)

    def begin(step: str) -> None:
        (folder / "step").write_text(step, encoding="utf-8")

    with processes_kept():
        found = chain(folder, source, tokenizer, processes, 0, begin, keep=True)
    tokens = size_of(out / "tokens")
    shutil.rmtree(out)
    return {
        "cpu": sum(cpu for cpu, _, _ in found.values()),
        "wall": sum(wall for _, wall, _ in found.values()),
        "kept": found["clean"][2].ledger.kept,
        "bytes": tokens,
    }


def write_noised(path: Path, data: Path, size: int) -> int:
    """Write so many bytes of rows, the words of each round changed in another way; how many rows."""
    from data import rows_of

    texts = [text for row in rows_of(data) for text in row]
    parts, codes = coded(texts)
    words = np.flatnonzero([not part.isspace() for part in parts])
    names = np.array(parts, dtype=object)
    random, count, written = np.random.default_rng(0), 0, 0
    with path.open("wb") as file:
        for first in rounds(len(codes) // 2):
            every = codes[2 * first : 2 * (first + _ROUND)]
            flat, lengths = np.concatenate(every), [len(code) for code in every]
            changed = (random.random(len(flat)) < _CHANGED) & np.isin(flat, words)
            flat[changed] = random.choice(words, int(changed.sum()))
            said = ["".join(text) for text in np.split(names[flat], np.cumsum(lengths)[:-1])]
            for prompt, answer in zip(said[::2], said[1::2], strict=True):
                line = json.dumps({"instruction": prompt, "output": answer}, ensure_ascii=False).encode() + b"\n"
                written += file.write(line)
                count += 1
                if written >= size:
                    return count
    return count


def coded(texts: list[str]) -> tuple[list[str], list[np.ndarray]]:
    """All parts of the texts (words and what stands between), and each text as numbers of parts."""
    from data import parts_of

    numbers: dict[str, int] = {}
    codes = [np.array([numbers.setdefault(part, len(numbers)) for part in parts_of(text)], np.int64) for text in texts]
    return list(numbers), codes


def rounds(rows: int) -> Iterator[int]:
    """Where stretches of rows begin, again and again."""
    while True:
        yield from range(0, rows, _ROUND)


def report(found: list[Measured]) -> None:
    """Print the tables, and the last size carried on to 100 GB."""
    titles = (
        "input, GB",
        "rows",
        "kept",
        "CPU s",
        "rows per CPU s",
        "wall s",
        "memory, MB",
        "disk by input",
        "tokens by input",
    )
    print(f"| {' | '.join(titles)} |\n|{'---:|' * len(titles)}")
    for one in found:
        sizes = f"{one.memory / 1e6:,.0f} | {one.disk / one.size:.2f} | {one.result / one.size:.2f}"
        speeds = f"{one.cpu:,.0f} | {one.rows / one.cpu:,.0f} | {one.wall:,.0f}"
        print(f"| {one.size / _GB:.2f} | {one.rows:,} | {one.kept:,} | {speeds} | {sizes} |")
    print(f"\n| input, GB | {' | '.join(f'{name}, MB' for name in STEPS)} |\n|---:|{'---:|' * len(STEPS)}")
    for one in found:
        print(f"| {one.size / _GB:.2f} | " + " | ".join(f"{one.peaks.get(name, 0) / 1e6:,.0f}" for name in STEPS) + " |")
    print("\n" + carried_on(found))


def carried_on(found: list[Measured]) -> str:
    """What the largest size says of 100 GB: time and disk in proportion, memory by its growth from the size before."""
    last = found[-1]
    times = _GOAL * _GB / last.size
    hours = f"{last.cpu * times / 3600:,.1f} CPU hours, {last.wall * times / 3600:,.1f} hours with these processes"
    disk = f"{last.disk * times / _GB:,.0f} GB of disk beside the input, {last.result * times / _GB:,.0f} GB of tokens"
    said = f"{_GOAL:.0f} GB, carried on from {last.size / _GB:.2f} GB: {hours}, {disk}"
    if len(found) < 2 or found[-2].size < _WHOLE:
        return f"{said}. Memory is carried on from two sizes of {_WHOLE / _GB} GB or more: in smaller ones shards are not full."
    growth = (last.memory - found[-2].memory) / (last.rows - found[-2].rows)
    memory = last.memory + max(growth, 0) * last.rows * (times - 1)
    return f"{said}, {memory / 1e6:,.0f} MB of memory ({growth:.1f} bytes more a row)."


if __name__ == "__main__":
    main()
