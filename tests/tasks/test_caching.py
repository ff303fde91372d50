"""The cache: what makes a key, what counts as a hit, and the reason that is told."""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.caching import Outcome, flatten, lock_digest, run_cached
from tasks.contracts import Count, RunContext, Spec, StepRecord
from tasks.storage import Store


class Options(Spec):
    x: int = 1
    y: str = "a"


class Box:
    """A workspace with one step that writes `rows.txt` and counts how often it ran."""

    def __init__(self, root: Path) -> None:
        self.root, self.ran = root, 0
        self.store = Store(str(root), root / "scratch")

    def run(self, compute: Callable[..., Count] | None = None, version: int = 1, run: str = "bot", **arguments: object) -> Any:
        def default(folder: Path, uri: str, key: str) -> Count:
            self.ran += 1
            (folder / "rows.txt").write_text("rows")
            return Count(reason=uri, rows=self.ran)

        arguments = {"spec": Options(), **arguments}
        return run_cached(
            self.store, "clean", version, arguments, Count, compute or default, records=self.root / "runs" / run / "steps"
        )

    def rows_file(self) -> Path:
        return next((self.root / "cache" / "clean").glob("*/rows.txt"))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def told(outcome: Outcome[Count]) -> tuple[bool, str]:
    return outcome.record.cached, outcome.record.reason


HIT = (True, "nothing it depends on changed; every file still has its hash")


def test_the_second_time_nothing_runs(box: Box) -> None:
    first, second = box.run(), box.run()
    assert told(first) == (False, "first time under this name")
    assert told(second) == HIT
    assert (box.ran, first.value) == (1, second.value)
    assert first.record.key == second.record.key
    assert first.value.reason == f"{box.root}/cache/clean/{first.record.key[:24]}"
    assert StepRecord.model_validate_json((box.root / "runs/bot/steps/clean.json").read_text()) == second.record


def test_another_name_shares_the_cache(box: Box) -> None:
    box.run()
    assert told(box.run(run="other")) == HIT


def test_what_changed_is_told(box: Box) -> None:
    box.run(rows=Count(reason="r", rows=3))
    assert told(box.run(spec=Options(x=2), rows=Count(reason="r", rows=3))) == (False, "changed: spec.x 1 -> 2")
    assert told(box.run(spec=Options(x=2, y="b"), rows=Count(reason="r", rows=4))) == (
        False, 'changed: rows.rows 3 -> 4; spec.y "a" -> "b"',
    )  # fmt: skip
    assert (
        told(box.run(version=2, spec=Options(x=2, y="b"), rows=Count(reason="r", rows=4)))[1] == "changed: stage_version 1 -> 2"
    )
    assert told(box.run(spec=Options(y="a long text that nobody wants to read")))[1] == (
        'changed: rows.reason "r" -> null; rows.rows 4 -> null; spec.x 2 -> 1; spec.y "b" -> "a long te…; and 1 more'
    )


def test_going_back_to_earlier_settings_is_a_hit(box: Box) -> None:
    box.run()
    box.run(spec=Options(x=2))
    assert told(box.run()) == HIT
    assert box.ran == 2


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"version": 2}, "changed: stage_version 1 -> 2"), ({"environment": {"cores": 4}}, "changed: environment.cores 2 -> 4")],
)
def test_version_and_environment_are_in_the_key(box: Box, changed: dict[str, Any], reason: str) -> None:
    same: dict[str, Any] = {"environment": {"cores": 2}}
    box.run(**same)
    assert told(box.run(**{**same, **changed})) == (False, reason)


def test_the_lock_file_is_in_the_key(box: Box) -> None:
    assert box.run().record.inputs == {"spec.x": 1, "spec.y": "a", "stage_version": 1, "lock": lock_digest()}
    assert len(lock_digest()) == 64


def test_where_a_run_works_is_not_in_the_key(box: Box) -> None:
    contexts = [RunContext(name=name, workspace=f"/{name}", run_id=name, started=1.0) for name in ("a", "b")]
    assert [told(box.run(run_context=context))[0] for context in contexts] == [False, True]
    assert told(box.run()) == HIT


def test_values_in_lists_count_by_their_content(box: Box) -> None:
    box.run(parts=(Count(reason="a", rows=1),))
    assert told(box.run(parts=[Count(reason="a", rows=1)])) == HIT
    assert told(box.run(parts=(Count(reason="a", rows=2),))) == (False, "changed: parts.0.rows 1 -> 2")


def test_a_missing_file_is_computed_again(box: Box) -> None:
    box.run()
    box.rows_file().unlink()
    assert told(box.run()) == (False, "its cached result no longer holds: rows.txt is missing")
    assert told(box.run()) == HIT


def test_a_changed_file_is_computed_again(box: Box) -> None:
    box.run()
    box.rows_file().write_text("rowS")
    assert told(box.run()) == (False, "its cached result no longer holds: rows.txt is not what its manifest says")
    assert box.rows_file().read_text() == "rows"


def test_a_value_of_another_form_is_computed_again(box: Box) -> None:
    box.run()
    manifest = box.rows_file().with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace('"rows":', '"lines":', 1))
    cached, reason = told(box.run())
    assert not cached
    assert reason.startswith("its cached result has another form: ")


def test_a_result_that_was_deleted_is_told_as_gone(box: Box) -> None:
    box.run()
    box.rows_file().with_name("manifest.json").unlink()
    assert told(box.run()) == (False, "its cached result is gone")


def test_a_step_that_raises_leaves_nothing_and_says_so_next_time(box: Box) -> None:
    def fail(folder: Path, uri: str, key: str) -> Count:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("no disk")

    box.run()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no disk"):
            box.run(fail, spec=Options(x=2))
    assert len(list((box.root / "cache" / "clean").iterdir())) == 1
    assert not list(box.root.rglob("half.txt"))
    record = StepRecord.model_validate_json((box.root / "runs/bot/steps/clean.json").read_text())
    assert (record.at, record.reason) == (0.0, "it did not finish last time")  # `at` 0: no report counts it
    assert told(box.run(spec=Options(x=2))) == (False, "it did not finish last time")
    assert told(box.run(spec=Options(x=2))) == HIT


def test_a_record_that_cannot_be_read_is_no_obstacle(box: Box) -> None:
    box.run()
    (box.root / "runs/bot/steps/clean.json").write_text("{")
    assert told(box.run(spec=Options(x=2))) == (False, "first time under this name")


def _slow(root: str, gate: Any, results: Any) -> None:
    def compute(folder: Path, uri: str, key: str) -> Count:
        with (Path(root) / "computed").open("a") as file:
            file.write("once\n")
        time.sleep(1.0)
        return Count(reason="r", rows=1)

    waited: list[str] = []
    store = Store(root, Path(root) / "scratch")
    gate.wait()
    outcome = run_cached(store, "clean", 1, {"x": 1}, Count, compute, Path(root) / "steps", waited.append)
    results.put((outcome.record.cached, waited))


def test_two_processes_compute_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_slow, args=(str(tmp_path), gate, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=60) for _ in processes), key=lambda result: result[0])
    for process in processes:
        process.join()
    assert (tmp_path / "computed").read_text() == "once\n"
    (one_cached, _), (other_cached, waited) = found
    assert (one_cached, other_cached) == (False, True)
    assert [line.split("/")[-2:][0] for line in waited] == ["clean"]
    assert waited[0].startswith("another run computes cache/clean/")
    assert waited[0].endswith("; waiting for it")


def test_flatten_gives_dotted_paths_to_leaves() -> None:
    assert flatten({"a": {"b": [1, {"c": None}]}, "d": ()}) == {"a.b.0": 1, "a.b.1.c": None}
