"""The benchmark for one GPU runs on the CPU with a tiny model, so that it is ready where there is a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.training_gpu import DOCUMENTS, TINY, WARM, WAYS, Asked, documents, measure_nf4, write_base
from tests.conftest import ROOT


def test_the_packs_are_full_and_the_same_each_time(tmp_path: Path) -> None:
    asked = Asked(TINY, tmp_path, steps=3, rows=2, length=128)
    packs = documents(asked)
    assert len(packs) == 2 * (3 + WARM)
    assert {sum(map(len, pack)) for pack in packs} == {128}
    assert {len(pack) for pack in packs} == {DOCUMENTS}
    assert documents(asked) == packs


def test_products_with_4_bits_are_those_of_the_weights_that_they_stand_for(tmp_path: Path) -> None:
    asked = Asked(TINY, tmp_path, steps=1, rows=1, length=128)
    write_base(asked)
    found = measure_nf4(asked)
    assert found["same forward"] < 1e-4 > found["same backward"]
    assert 0.01 < found["original forward"] < 0.5
    assert 0.01 < found["original backward"] < 0.5


@pytest.mark.slow
def test_every_way_is_measured_and_stands_in_the_table() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "training_gpu.py"), "--tiny", "--steps", "1", "--length", "128"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line[0].removeprefix("| ") for line in lines[1:5]] == list(WAYS)
    assert all(float(line[1].replace(",", "")) > 0 for line in lines[1:5])
    assert [line[0] for line in lines[6:]] == ["| the weights that they stand for", "| the original weights"]


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from benchmarks import training_gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["training_gpu.py"])
    assert training_gpu.main() == 1
    assert "There is no GPU here. With --tiny" in capsys.readouterr().err
