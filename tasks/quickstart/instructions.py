"""The quickstart's instruction set: right answers in the invented world, soiled in known numbers."""

import json
from dataclasses import asdict
from pathlib import Path
from random import Random

from tasks.quickstart.dirt import InstructionCounts, counts_for, soil
from tasks.quickstart.skills import clean_rows
from tasks.storage import write_text


def write_instructions(path: Path, rows: int, seed: int) -> InstructionCounts:
    """Write `rows` rows of instruction, input and output; returns how many of them have which fault.

    Args:
        path: a .jsonl file gets one row a line, any other one JSON array.
        rows: the soiled ones included.
        seed: the same seed gives the same bytes.
    """
    random = Random(f"instructions {seed}")  # noqa: S311
    counts = counts_for(rows)
    clean = clean_rows(counts.distinct + counts.empty_outputs + counts.empty_instructions, random)
    lines = [json.dumps(asdict(row), ensure_ascii=False) for row in soil(clean, counts, random)]
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]\n"
    write_text(path, text)
    return counts
