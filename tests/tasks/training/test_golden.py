"""Losses of gsm8k, by each method and on one and two ranks, beside those that were stored.

`TUNEFLOW_GOLDEN=write .venv/bin/python -m pytest tests/tasks/training/test_golden.py` computes and stores them.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tests.conftest import write_sequences
from tests.tasks.training.conftest import build_job, cpu_plan, losses
from tests.tasks.training.ranks import run
from tests.tasks.training.test_methods_training import each_method

pytestmark = pytest.mark.slow

STORED = Path(__file__).with_name("golden.json")
COMMAND = "TUNEFLOW_GOLDEN=write .venv/bin/python -m pytest tests/tasks/training/test_golden.py"
WRITES = os.environ.get("TUNEFLOW_GOLDEN") == "write"


@pytest.fixture(scope="module")
def school(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first questions and answers of gsm8k, a token for each byte, cut to what the tiny model holds."""
    folder = tmp_path_factory.mktemp("school")
    with (real_data / "gsm8k" / "train.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(88), file, strict=False)]
    texts = [list(f"{row['question']}\n{row['answer']}".encode())[:256] for row in rows]
    for name, part in (("train", texts[:80]), ("validation", texts[80:])):
        write_sequences(folder / f"{name}.parquet", part, context=20)
    return folder


@each_method
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_losses_are_those_that_were_stored(
    tiny_base: ModelRef, school: Path, tmp_path: Path, method: Any, ranks: int, request: pytest.FixtureRequest
) -> None:
    plan = cpu_plan(devices=ranks, micro_batch=8 // ranks, zero_stage=2 if ranks > 1 else 0)
    job = build_job(tiny_base, school, tmp_path, method, plan, batch_size=8, epochs=1)
    result = run(job)
    assert result["steps"] == 10
    found = {"training": losses(job), "validation": result["validation_loss"]}
    name = request.node.callspec.id
    if WRITES:
        store(name, found)
    stored = json.loads(STORED.read_text())["losses"][name]
    # Another kind of processor rounds otherwise, and ten steps carry that on.
    assert found["training"] == pytest.approx(stored["training"], rel=2e-3)
    assert found["validation"] == pytest.approx(stored["validation"], rel=2e-3)


def store(name: str, found: dict[str, Any]) -> None:
    known = json.loads(STORED.read_text())["losses"] if STORED.exists() else {}
    content = {"command": COMMAND, "losses": dict(sorted({**known, name: found}.items()))}
    STORED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
