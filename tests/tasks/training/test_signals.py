"""What is counted as work, and how the time left follows from the pace."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.training.methods.lora import Lora
from tasks.training.signals import Signals, matmul_rate, operations, weights
from tests.tasks.training.conftest import cpu_plan
from tests.tasks.training.test_heads import as_engine, tied
from tests.tasks.training.test_packs import build, gpt2, llama


def test_a_weight_that_learns_costs_six_operations_and_the_embedding_none() -> None:
    model = build(llama, "sdpa")
    table, every = 512 * 32, sum(parameter.numel() for parameter in model.parameters())
    assert operations(model) == (6 * (every - 2 * table), 6 * table)


def test_a_head_that_is_the_embedding_too_computes() -> None:
    model = build(tied, "sdpa")
    table, every = 512 * 32, sum(parameter.numel() for parameter in model.parameters())
    assert operations(model) == (6 * (every - table), 6 * table)
    positions = 128 * 32  # looked up, but by no layer that the model names: counted, and small
    body, head = operations(build(gpt2, "sdpa"))
    assert head == 6 * table
    assert body > 6 * positions


def test_a_frozen_weight_costs_four() -> None:
    model = Lora(rank=4).wrap(build(llama, "sdpa"))
    table = 512 * 32
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    assert learned > 0
    assert operations(model) == (6 * learned + 4 * (frozen - 2 * table), 4 * table)


def test_divided_and_packed_weights_count_as_what_they_stand_for() -> None:
    parameter: Any = torch.nn.Parameter(torch.zeros(3))
    assert weights(parameter) == 3
    parameter.ds_numel = 12
    assert weights(parameter) == 12
    four_bit: Any = SimpleNamespace(quant_state=SimpleNamespace(shape=torch.Size([8, 16])), numel=lambda: 64)
    assert weights(four_bit) == 128


def test_matrix_products_have_a_speed() -> None:
    assert 1e8 < matmul_rate("cpu", torch.float32, 64) < 1e14


def test_speed_and_time_left_follow_from_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    signals = Signals(as_engine(build(llama, "sdpa")), cpu_plan(), width=32, from_hidden=True)
    assert signals.seconds_left(10) is None
    signals.peak = 1e9
    signals.body, signals.head = 1_000_000, 500_000
    for _ in range(4):
        clock[0] += 0.5
        signals.step(tokens=100, learned=40)
    found = signals.report()
    assert found["tokens_per_second"] == 200
    assert found["supervised_tokens_per_second"] == 80
    assert found["step_seconds"] == 0.5
    assert found["mfu"] == pytest.approx((200 * 1e6 + 80 * 5e5) / 1e9)  # the head computes what is learned alone
    assert signals.seconds_left(10) == 5.0
    clock[0] += 6.0
    signals.step(tokens=100, learned=40)
    assert signals.report()["tokens_per_second"] == pytest.approx(100 / 6)  # since the last report
    assert signals.seconds_left(10) == pytest.approx(16.0)  # since the start
    signals.from_hidden = False
    clock[0] += 1.0
    signals.step(tokens=100, learned=40)
    assert signals.report()["mfu"] == pytest.approx((100 * 1e6 + 100 * 5e5) / 1e9)
