"""A few real passes on the CPU, and what is made of them."""

import json
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.process import child_environment, python_module, run_child
from tasks.resources.memory import Setup
from tasks.resources.probe import Point, ProbeJob, choose, job_of, measure, wants_probe
from tasks.resources.spec import ResourceSpec
from tasks.training.methods.lora import Lora
from tests.tasks.resources.conftest import CPU, EIGHT, wanted


def points(*speeds: tuple[int, float, float]) -> list[Point]:
    return [Point(rows=rows, tokens_per_second=speed, peak_gib=peak) for rows, speed, peak in speeds]


def test_the_smallest_that_is_about_as_fast_is_chosen() -> None:
    found = choose(points((1, 50, 1), (2, 99, 1.5), (4, 100, 2), (8, 120, 9)), limit_gib=5)
    assert found is not None
    assert (found.micro_batch, found.tokens_per_second, found.peak_gib) == (2, 99, 1.5)
    assert found.reason == "the fastest tried, by tokens a second (1: 50, 2: 99, 4: 100, 8: 120)"


def test_none_fits() -> None:
    assert choose(points((1, 50, 6)), limit_gib=5) is None
    assert choose([], limit_gib=5) is None


@pytest.mark.parametrize(
    ("asked", "machine", "setup", "rows", "wants", "why"),
    [
        ("auto", CPU, Setup(), 0, False, ""),
        ("on", CPU, Setup(), 0, True, ""),
        ("auto", EIGHT, Setup(zero_stage=2), 0, True, ""),
        ("off", EIGHT, Setup(), 0, False, "no probe: as asked"),
        ("auto", EIGHT, Setup(zero_stage=3), 0, False, "no probe: one device alone does not hold the weights"),
        ("on", EIGHT, Setup(zero_stage=2, offload="cpu"), 0, False, "no probe: one device alone does not hold the weights"),
        ("on", EIGHT, Setup(), 4, False, "no probe: the micro-batch is asked for"),
    ],
)
def test_when_there_is_a_probe(asked: Any, machine: Any, setup: Setup, rows: int, wants: bool, why: str) -> None:
    assert wants_probe(ResourceSpec(probe=asked), machine, setup, rows) == (wants, why)


def job(base: ModelRef, limit_gib: float = 1e6, **changes: Any) -> ProbeJob:
    setup = Setup(rows=4, share=4, length=32, **changes)
    return job_of(wanted(base, Lora(rank=4), longest=32), setup, threads=1, limit_gib=limit_gib)


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"zero_stage": 2}], ids=["plain", "again", "divided"])
def test_passes_are_made_in_growing_micro_batches(tiny_base: ModelRef, changes: dict[str, Any]) -> None:
    found: list[Point] = []
    measure(job(tiny_base, **changes), found.append)
    assert [point.rows for point in found] == [1, 2, 4][: len(found)]  # fewer where more rows were slower
    assert len(found) >= 2
    assert all(point.tokens_per_second > 0 and point.peak_gib > 0 for point in found)


def test_nothing_larger_is_tried_where_memory_is_short(tiny_base: ModelRef) -> None:
    found: list[Point] = []
    measure(job(tiny_base, limit_gib=0.001), found.append)
    assert [point.rows for point in found] == [1]


@pytest.mark.slow
def test_a_probe_is_a_process_of_its_own(tiny_base: ModelRef, tmp_path: Any) -> None:
    path, events = tmp_path / "probe.json", list[dict[str, Any]]()
    path.write_text(job(tiny_base).model_dump_json())
    run_child(
        python_module("tasks.resources.probe", str(path)),
        on_event=events.append,
        environment=child_environment("cpu", 1, "test"),
    )
    assert {event["kind"] for event in events} == {"probe"}
    assert [event["rows"] for event in events][:2] == [1, 2]
    json.dumps(events)
