"""The same work on a Dask cluster of real processes: the same bytes, and a clear word where workers cannot share it."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.data import checks, cleaning, clusters, loading, splitting, tokenizing
from tasks.data.running import Run, in_turn
from tasks.data.spec import DataSpec
from tasks.encryption import vault
from tasks.encryption.keys import MasterKey
from tasks.errors import DatasetError, RequestError, ServiceError, StageError

ROWS = [{"question": f"what is {n} and {n * 7}?", "answer": f"it is {n * 13} \u00c3\u00bc {n}"} for n in range(90)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    workers = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**workers, env={"PYTHONPATH": str(Path(__file__).parents[3])}) as started:
        yield started


def prepared(spec: DataSpec, base: ModelRef, out: Path, run: Run) -> dict[str, str]:
    """All steps; the sha256 of every file that is left."""
    raw = loading.load("set", spec, out / "raw", "raw", {}, run=run, shard_rows=20)
    checks.validate(raw, spec.validation, spec.cleaning, out / "raw", out / "checked", run)
    clean = cleaning.clean(raw, spec.cleaning, out / "raw", out / "clean", "clean", run)
    splits = splitting.split(clean, spec.splitting, [1.0], out / "clean", out / "split", "split", 0, run)
    files = {name: out / "split" / name for name in ("train", "validation", "test")}
    tokenizing.tokenize(
        splits, base, files, out / "tokens", "tokens", max_length=64, truncation="cut", batch_size=4, seed=0, run=run
    )
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def process_of(_job: int) -> int:
    return os.getpid()


def refused(job: int) -> int:
    raise DatasetError(f"row {job} is bad")


def late(_job: int) -> int:
    raise TimeoutError("the job's own")


def deadly(_job: int) -> int:
    os._exit(1)


@pytest.mark.slow
def test_a_cluster_makes_the_same_bytes(
    cluster: Any, write: Callable[..., str], base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DataSpec(source=write(ROWS))
    alone = prepared(spec, base, tmp_path / "alone", in_turn)
    monkeypatch.setenv(clusters.VARIABLE, cluster.scheduler_address)
    with clusters.workers(1, tmp_path / "shared") as run:
        assert prepared(spec, base, tmp_path / "shared", run) == alone
        used = set(run(process_of, range(20)))
    assert len(alone) > 15
    assert len(used) == 2
    assert os.getpid() not in used


@pytest.mark.slow
def test_what_a_job_raises_comes_back(cluster: Any, tmp_path: Path) -> None:
    with clusters.on_dask(cluster.scheduler_address, tmp_path) as run:
        with pytest.raises(DatasetError, match="row 3 is bad"):
            list(run(refused, [3]))
        with pytest.raises(TimeoutError, match="the job's own"):
            list(run(late, [1]))
    assert not list(tmp_path.glob(".probe*"))


@pytest.mark.slow
def test_workers_that_differ_are_all_named(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = clusters.facts()
    monkeypatch.setattr(clusters, "facts", lambda: here | {"polars": "0.1"})
    with pytest.raises(ServiceError) as error, clusters.on_dask(cluster.scheduler_address, tmp_path):
        pass
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.endswith(f"has polars {here['polars']} instead of 0.1") for line in lines[1:])


@pytest.mark.slow
def test_a_folder_that_workers_do_not_see(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "reply_of", lambda probe, worker: probe.with_name("elsewhere"))
    with (
        pytest.raises(ServiceError, match=f"does not read and write the files in {tmp_path}; mount"),
        clusters.on_dask(cluster.scheduler_address, tmp_path),
    ):
        pass


@pytest.mark.slow
def test_several_threads_are_refused_and_deaths_are_told(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    one = {"n_workers": 1, "dashboard_address": ":0", "env": {"PYTHONPATH": str(Path(__file__).parents[3])}}
    with (
        distributed.LocalCluster(**one, threads_per_worker=2) as started,
        pytest.raises(ServiceError, match="has 2 threads; start it with --nthreads 1"),
        clusters.on_dask(started.scheduler_address, tmp_path),
    ):
        pass
    with (
        distributed.LocalCluster(**one, threads_per_worker=1) as started,
        clusters.on_dask(started.scheduler_address, tmp_path) as run,
        pytest.raises(StageError, match="goes on after the last whole shard"),
    ):
        list(run(deadly, [1]))


def test_without_a_cluster_processes_of_this_machine_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(clusters.VARIABLE, raising=False)
    with clusters.workers(1, tmp_path) as run:
        assert run is in_turn


def test_dask_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask.client", None)
    monkeypatch.setenv(clusters.VARIABLE, "tcp://127.0.0.1:1")
    with pytest.raises(RequestError, match=r'pip install "tuneflow\[dask\]"'), clusters.workers(1, tmp_path):
        pass


def test_no_scheduler_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setattr(clusters, "_PATIENCE", 0.5)
    with (
        pytest.raises(ServiceError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
        clusters.on_dask("tcp://127.0.0.1:1", tmp_path),
    ):
        pass


def test_the_key_of_encrypted_data_stays_here(tmp_path: Path) -> None:
    with (
        vault.unlocked(MasterKey(bytes(32))),
        pytest.raises(RequestError, match="their key does not leave this machine"),
        clusters.on_dask("tcp://127.0.0.1:1", tmp_path),
    ):
        pass
