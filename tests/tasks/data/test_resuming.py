"""Killed at any moment and started again, with one process or with several, the data come out the same."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tasks.contracts import ModelRef

Any_ = Callable[..., Any]
ROOT = Path(__file__).parents[3]
# All steps of the stage in one folder each, as a step's folder is when the step is started again.
CHAIN = """
import sys
from pathlib import Path

from tasks.contracts import ModelRef
from tasks.data import checks, cleaning, loading, splitting, tokenizing
from tasks.data.manifest import manifest_of
from tasks.data.running import several
from tasks.data.spec import DataSpec

if __name__ == "__main__":
    spec = DataSpec(source=sys.argv[1])
    base = ModelRef.model_validate_json(sys.argv[3])
    places = {name: Path(sys.argv[2]) / name for name in ("raw", "checked", "clean", "split", "tokens")}
    with several(int(sys.argv[4])) as run:
        raw = loading.load("set", spec, places["raw"], "mem://raw", {}, run=run, shard_rows=150)
        checks.validate(raw, spec.validation, spec.cleaning, places["raw"], places["checked"], run)
        clean = cleaning.clean(raw, spec.cleaning, places["raw"], places["clean"], "mem://clean", run)
        splits = splitting.split(clean, spec.splitting, (1.0,), places["clean"], places["split"], "mem://split", 0, run)
        files = {name: places["split"] / name for name in ("train", "validation", "test")}
        data = tokenizing.tokenize(
            splits, base, files, places["tokens"], "mem://tokens", max_length=512, truncation="cut", batch_size=4, seed=0,
            run=run,
        )
    manifest = manifest_of(spec, 512, 0, raw, clean, splits, data)
    print(f'{{"tokens": {data.model_dump_json()}, "manifest": {manifest.model_dump_json()}}}')
"""


def start(source: str, folder: Path, base: ModelRef, processes: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHAIN, source, str(folder), base.model_dump_json(), str(processes)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What all steps gave: the tokens and the manifest."""
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.fixture
def source(write: Any_) -> str:
    """1,200 rows with repeats, near-repeats, dirt and an empty answer."""
    random = Random(0)
    words = [f"word{number}" for number in range(400)]
    rows = []
    for number in range(1200):
        text = " ".join(random.choices(words, k=35))
        rows.append({"question": f"{text} {number}?", "answer": " ".join(random.choices(words, k=12))})
        if number % 9 == 0:
            rows[-1] = dict(rows[random.randrange(len(rows))])
        elif number % 11 == 0:
            rows[-1]["question"] = rows[random.randrange(len(rows))]["question"] + " more\\u200b "
    rows[77]["answer"] = ""
    return str(write(rows))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_change_nothing(source: str, tmp_path: Path, base: ModelRef) -> None:
    whole = ended(start(source, tmp_path / "whole", base, 1))
    assert whole["tokens"]["train"]["sequences"] > 500
    random = Random(1)
    killed = 0
    for _ in range(20):
        process = start(source, tmp_path / "killed", base, 2)
        try:
            process.wait(random.uniform(0.8, 6))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed >= 5
    assert ended(start(source, tmp_path / "killed", base, 2)) == whole
