"""What the search for near-duplicates finds, how fast it is, and what memory and disk it needs. Prints Markdown tables.

    .venv/bin/python benchmarks/data_dedup.py quality --data FOLDER [--thresholds 0.3 0.4 ...]
    .venv/bin/python benchmarks/data_dedup.py scale --data FOLDER [--rows 50000 200000 800000] [--processes 1]

FOLDER holds gpteacher/toolformer.json, gpteacher/codegen.json and, for scale, alpaca_cot/*.json. Quality: the rows of gpteacher
are divided into halves, and into each half 1,000 copies of its rows are mixed in which 5 to 10 % of the words (one at least of
prompt and of answer) are replaced, deleted or swapped with the next one. A copy counts as found where it or its origin is
dropped. A dropped original counts as right where its answer is like that of the row it repeats: Indel ratio of 0.7 or more,
over 200 that are drawn. Scale: rows of both sets in which a fifth have a tenth of their words or less replaced, the others half
or more; each size in a child process of its own.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

Row = tuple[str, str]  # prompt, answer
SHARD_ROWS = 50_000
COPIES, SAMPLE, LIKE = 1_000, 200, 0.7


@dataclass(frozen=True)
class Item:
    """A row of a half: an original, or an edited copy of one."""

    row: Row
    origin: int
    copy: bool


def rows_of(folder: Path, names: Sequence[str]) -> list[Row]:
    """Different rows with an answer."""
    found: dict[Row, None] = {}
    for name in names:
        for row in json.loads((folder / name).read_text(encoding="utf-8")):
            prompt = "\n".join(part for part in (row["instruction"], row.get("input", "")) if part)
            answer = row.get("response", row.get("output", ""))
            if answer.strip():
                found[prompt, answer] = None
    return list(found)


def edited(text: str, words: Sequence[str], share: float, draw: Random) -> str:
    """The text with a share of its words (one at least) replaced, deleted or swapped."""
    parts = re.split(r"(\s+)", text)
    places = [place for place in range(0, len(parts), 2) if parts[place]]
    for place in draw.sample(places, min(max(1, round(share * len(places))), len(places))):
        kind = draw.randrange(3)
        if kind == 0:
            parts[place] = draw.choice(words)
        elif kind == 1:
            parts[place] = ""
        elif place + 2 < len(parts):
            parts[place], parts[place + 2] = parts[place + 2], parts[place]
    return "".join(parts).strip()


def mixed_half(rows: Sequence[Row], seed: int) -> list[Item]:
    """The rows and the edited copies of some, in a drawn order."""
    draw = Random(seed)  # noqa: S311
    words = [word for row in rows for text in row for word in text.split()]
    items = [Item(row, place, copy=False) for place, row in enumerate(rows)]
    for origin in draw.sample(range(len(rows)), min(COPIES, len(rows))):
        prompt, answer = (edited(text, words, draw.uniform(0.05, 0.10), draw) for text in rows[origin])
        items.append(Item((prompt, answer), origin, copy=True))
    draw.shuffle(items)
    return items


def write_shards(rows: Iterator[Row], folder: Path) -> list[Path]:
    """The rows as find_alike reads them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards, number = list[Path](), 0
    while batch := [row for _, row in zip(range(SHARD_ROWS), rows, strict=False)]:
        columns = {
            "row": range(number, number + len(batch)),
            "whole": ["\n".join(row) for row in batch],
            "answer": [row[1] for row in batch],
        }
        shards.append(folder / f"part-{len(shards):05d}.parquet")
        pq.write_table(pa.table(columns), shards[-1])
        number += len(batch)
    return shards


def indel(one: str, other: str) -> float:
    """Twice the longest common subsequence over both lengths, computed with one bit a character (Hyyrö, 2004)."""
    masks: dict[str, int] = {}
    for place, letter in enumerate(one):
        masks[letter] = masks.get(letter, 0) | 1 << place
    full = state = (1 << len(one)) - 1
    for letter in other:
        common = state & masks.get(letter, 0)
        state = (state + common | state - common) & full
    return 2 * (len(one) - state.bit_count()) / max(len(one) + len(other), 1)


def judge(items: Sequence[Item], threshold: float) -> dict[str, float]:
    """Recall, precision and counts of one search."""
    import pyarrow.parquet as pq

    from tasks.data.dedup import find_alike

    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(iter([item.row for item in items]), Path(folder))
        found = find_alike(shards, Path(folder) / "near", threshold)
        table = pq.read_table(found.path).to_pylist()
    repeats = {line["row"]: line["duplicate_of"] for line in table if line["duplicate_of"] is not None}
    places = {item.origin: place for place, item in enumerate(items) if not item.copy}
    copies = [(place, places[item.origin]) for place, item in enumerate(items) if item.copy]
    originals = sorted(row for row in repeats if not items[row].copy)
    drawn = Random(0).sample(originals, min(SAMPLE, len(originals)))  # noqa: S311
    right = sum(indel(items[row].row[1], items[repeats[row]].row[1]) >= LIKE for row in drawn)
    return {
        "recall": sum(place in repeats or origin in repeats for place, origin in copies) / len(copies),
        "precision": right / max(len(drawn), 1),
        "originals": len(originals),
        "rows": len(items),
    }


def quality(data: Path, thresholds: Sequence[float], chosen: float) -> str:
    """The table of the first half over thresholds, and the chosen one on the second."""
    rows = rows_of(data, ["gpteacher/toolformer.json", "gpteacher/codegen.json"])
    Random(7).shuffle(rows)  # noqa: S311
    halves = {"A": mixed_half(rows[: len(rows) // 2], 1), "B": mixed_half(rows[len(rows) // 2 :], 2)}
    lines = ["| half | threshold | recall | precision | originals dropped | rows |", "|---|---:|---:|---:|---:|---:|"]
    for half, threshold in [*(("A", threshold) for threshold in thresholds), ("B", chosen)]:
        found = judge(halves[half], threshold)
        shares = f"{found['recall']:.3f} | {found['precision']:.3f}"
        lines.append(f"| {half} | {threshold} | {shares} | {found['originals']} | {found['rows']} |")
    return "\n".join(lines)


def noised(rows: Sequence[Row], count: int) -> Iterator[Row]:
    """So many rows: a fifth lightly edited, the others beyond recognition."""
    draw = Random(11)  # noqa: S311
    words = [word for row in rows for text in row for word in text.split()]
    for number in range(count):
        share = draw.uniform(0.05, 0.10) if draw.random() < 0.2 else draw.uniform(0.5, 0.8)
        texts = []
        for text in rows[number % len(rows)]:
            parts = text.split(" ")
            for place in draw.sample(range(len(parts)), round(share * len(parts))):
                parts[place] = draw.choice(words)
            texts.append(" ".join(parts))
        yield texts[0], texts[1]


def search(folder: Path, threshold: float, processes: int) -> dict[str, float]:
    """One search over the shards of a folder: seconds, the peak of RssAnon and of the bytes on disk."""
    from tasks.data.dedup import find_alike
    from tasks.data.running import several

    peaks, over = {"memory": 0, "disk": 0}, threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            anonymous = re.search(r"RssAnon:\s+(\d+)", status)
            peaks["memory"] = max(peaks["memory"], int(anonymous[1]) * 1024 if anonymous else 0)
            peaks["disk"] = max(peaks["disk"], sum(_size(path) for path in (folder / "near").rglob("*")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    wall = time.perf_counter()
    with several(processes) as run:
        found = find_alike(sorted(folder.glob("part-*.parquet")), folder / "near", threshold, run)
    wall = time.perf_counter() - wall
    over.set()
    watcher.join()
    spent = os.times()
    cpu = spent.user + spent.system + spent.children_user + spent.children_system
    return {"rows": found.rows, "duplicates": found.duplicates, "cpu": cpu, "wall": wall, **peaks}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it was renamed or removed meanwhile
        return 0


def scale(data: Path, counts: Sequence[int], threshold: float, processes: int) -> str:
    """The table over numbers of rows."""
    names = sorted(str(path.relative_to(data)) for part in ("gpteacher", "alpaca_cot") for path in (data / part).glob("*.json"))
    rows = rows_of(data, names)
    lines = [
        "| rows | text, MB | near-duplicates | CPU s | rows per CPU s | wall s | peak RssAnon, MB | peak disk, bytes a row |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            text = sum(len(part.encode()) for row in noised(rows, count) for part in row)
            write_shards(noised(rows, count), Path(name))
            options = ["--data", name, "--threshold", str(threshold), "--processes", str(processes)]
            command = [sys.executable, __file__, "search", *options]
            environment = {**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
            child = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found = json.loads(child.stdout)
        lines.append(
            f"| {count:,} | {text / 1e6:.0f} | {found['duplicates']:,} | {found['cpu']:.1f} | {count / found['cpu']:,.0f} | "
            f"{found['wall']:.1f} | {found['memory'] / 1e6:.0f} | {found['disk'] / count:.0f} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    from tasks.data.spec import CleaningSpec

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("quality", "scale", "search"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.85])
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 800_000])
    parser.add_argument("--threshold", type=float, default=CleaningSpec().near_duplicates)
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args(arguments)
    if asked.what == "quality":
        print(quality(asked.data, asked.thresholds, asked.threshold))
    elif asked.what == "scale":
        print(scale(asked.data, asked.rows, asked.threshold, asked.processes))
    else:
        print(json.dumps(search(asked.data, asked.threshold, asked.processes)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
