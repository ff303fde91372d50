"""What MLflow is told, asked back from a real store in a file."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from blocks.tracking import MlflowTracking
from tasks.basemodel import find_model, inspect_model
from tasks.contracts import ModelRef, RunContext
from tasks.errors import ModelError, ServiceError
from tasks.models import describe
from tasks.tracking import Tracker
from tests.tasks.test_models import byte_tokenizer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> MlflowTracking:
    folder = tmp_path_factory.mktemp("mlflow")
    return MlflowTracking(tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_root=str(folder / "artifacts"))


@pytest.fixture
def tracker(server: MlflowTracking) -> Tracker:
    """A tracker of an experiment of its own."""
    return Tracker(server.client(), f"run-{uuid4().hex[:8]}", server.artifact_root)


def runs(tracker: Tracker, view: int = ViewType.ALL) -> list[Any]:
    experiment = tracker.client.get_experiment_by_name(tracker._experiment)
    assert experiment is not None
    return list(tracker.client.search_runs([experiment.experiment_id], run_view_type=view))


def test_steps_are_children_of_their_request(tracker: Tracker) -> None:
    parent = tracker.open("bot", {"tuneflow.request_sha256": "abc"})
    below = Tracker(tracker.client, tracker._experiment, tracker._artifact_root, parent)
    child = below.open("train", {"tuneflow.step": "train"})
    below.close(child)
    tracker.close(parent, "FAILED")
    found = {run.info.run_id: run for run in runs(tracker)}
    assert found.keys() == {parent, child}
    assert "mlflow.parentRunId" not in found[parent].data.tags
    assert found[child].data.tags["mlflow.parentRunId"] == parent
    assert found[child].data.tags["tuneflow.step"] == "train"
    assert [found[run].info.run_name for run in (parent, child)] == ["bot", "train"]
    assert [found[run].info.status for run in (parent, child)] == ["FAILED", "FINISHED"]


def test_parameters_are_cut_and_their_names_made_fit(tracker: Tracker) -> None:
    run = tracker.open("bot", {})
    many = {f"key.{number}": number for number in range(250)}
    tracker.log_parameters(run, {"long": "x" * 9000, "a:b[c]=d": None, "data.source": ["a", "b"], **many})
    found = tracker.client.get_run(run).data.params
    assert len(found) == 253
    assert found["long"] == "x" * 500
    assert (found["a-b-c--d"], found["data.source"], found["key.249"]) == ("None", "['a', 'b']", "249")
    tracker.log_parameters(run, {"long": "x" * 9000})  # a step that ran again says the same


def test_metrics_keep_their_steps(tracker: Tracker) -> None:
    run = tracker.open("bot", {})
    tracker.log_metrics(run, [(step, {"loss": 10.0 / step, "rate": 0.1}) for step in range(1, 1201)])
    tracker.log_metrics(run, [(0, {"loss(nats)": 3, "words": "none"})])  # type: ignore[dict-item]
    tracker.log_metrics(run, [])
    history = tracker.client.get_metric_history(run, "loss")
    assert [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)][:2] == [(1, 10.0), (2, 5.0)]
    assert len(history) == 1200
    assert tracker.client.get_run(run).data.metrics.keys() == {"loss", "rate", "loss-nats-"}


def test_a_run_shows_what_the_machine_is_doing(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run = tracker.open("train", {})

    def steps() -> list[int]:
        return [metric.step for metric in tracker.client.get_metric_history(run, "system/cpu_utilization_percentage")]

    for expected in (1, 2):  # the second goes on where the first ended, as in a run that is taken up again
        known = len(steps())
        with tracker.system_metrics(run):
            deadline = time.monotonic() + 60
            while len(steps()) < known + 1 and time.monotonic() < deadline:
                time.sleep(0.1)
        assert sorted(steps()) == list(range(len(steps()))), expected
        assert len(steps()) > known
    assert "system/system_memory_usage_percentage" in tracker.client.get_run(run).data.metrics
    ended = len(steps())
    time.sleep(0.5)
    assert len(steps()) == ended


def test_a_run_names_its_data(tracker: Tracker) -> None:
    run = tracker.open("bot", {})
    tracker.log_dataset(run, "tickets", "d" * 64, '{"files": []}', '{"rows": 3}')
    (found,) = tracker.client.get_run(run).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest, found.dataset.profile) == ("tickets", "d" * 36, '{"rows": 3}')
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_texts_and_folders_are_artifacts(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"weights")
    run = tracker.open("bot", {})
    tracker.log_text(run, "words", "notes.txt")
    address = Path(tracker.log_folder(run, tmp_path, "model"))
    assert (address / "sub" / "weights").samefile(tmp_path / "sub" / "weights")  # a hard link: no byte is copied
    assert sorted(entry.path for entry in tracker.client.list_artifacts(run)) == ["model", "notes.txt"]
    assert address.is_relative_to(Path(tracker._artifact_root) / tracker._experiment)
    (tmp_path / "more").write_text("x")
    assert Path(tracker.log_folder(run, tmp_path, "model"), "more").is_file()


def test_a_promotion_keeps_the_version_before(tracker: Tracker, tmp_path: Path) -> None:
    name, run = tracker._experiment, tracker.open("bot", {})
    assert (tracker.alias(name, "champion"), tracker.version_with(name, "sha", "a")) == ("", "")
    versions = [tracker.register(name, str(tmp_path), run, {"sha": sha}) for sha in ("a", "b", "a")]
    assert versions == ["1", "2", "3"]

    def aliases() -> tuple[str, str]:
        return tracker.alias(name, "champion"), tracker.alias(name, "previous")

    for version, expected in (("1", ("1", "")), ("2", ("2", "1")), ("2", ("2", "1")), ("3", ("3", "2")), ("1", ("1", "3"))):
        tracker.promote(name, version, "champion")
        assert aliases() == expected
    assert tracker.version_with(name, "sha", "a") == "3"
    assert tracker.version_with(name, "sha", "c") == ""


def test_the_newest_version_is_the_largest_number(tracker: Tracker, tmp_path: Path) -> None:
    name, run = tracker._experiment, tracker.open("bot", {})
    for _ in range(10):
        tracker.register(name, str(tmp_path), run, {"sha": "same"})
    assert tracker.version_with(name, "sha", "same") == "10"


def test_a_registered_model_is_fetched_by_version_and_by_alias(tracker: Tracker, tiny_base: ModelRef, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base.location, tmp_path / "model"))
    byte_tokenizer(eos_token="<end>").save_pretrained(folder)
    name, run = tracker._experiment, tracker.open("bot", {})
    address = tracker.log_folder(run, folder, "model")
    tracker.promote(name, tracker.register(name, address, run, {}), "champion")
    for uri in (f"models:/{name}/1", f"models:/{name}@champion"):
        assert tracker.fetch_model(uri) == Path(address)
        found = find_model(uri, "", tmp_path, tracker, None, False)
        assert found == describe(uri, Path(address)) == inspect_model(uri, "", tmp_path, lambda: tracker, None, False)
        assert found.sha256 == describe("", folder).sha256


@pytest.mark.parametrize(
    "form", ["{name}/9", "{name}@nobody", "{name}", "{name}/latest", "no-such-model/1", "no-such@champion", ""]
)
def test_a_version_that_does_not_exist_is_refused(tracker: Tracker, tmp_path: Path, form: str) -> None:
    name, run = tracker._experiment, tracker.open("bot", {})
    tracker.register(name, str(tmp_path), run, {})
    uri = "models:/" + form.format(name=name)
    with pytest.raises(ModelError, match=f"^{uri} is not a registered model: .+"):
        find_model(uri, "", tmp_path, tracker, None, False)


def test_a_probe_leaves_no_run(tracker: Tracker) -> None:
    tracker.probe()
    assert runs(tracker, ViewType.ACTIVE_ONLY) == []


def test_a_database_that_goes_away_is_told(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    tracker = Tracker(MlflowClient(uri, registry_uri=uri), "bot")
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as connection:
        connection.execute("DROP TABLE experiments")
    with pytest.raises(ServiceError, match=r"The tracking server cannot be written to and deleted from: .*no such table"):
        tracker.probe()


def test_a_server_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    started = time.monotonic()
    with pytest.raises(ServiceError, match=r"^The tracking server cannot be written to and deleted from: .*127\.0\.0\.1"):
        Tracker(MlflowTracking(tracking_uri="http://127.0.0.1:9").client(), "bot").probe()
    assert time.monotonic() - started < 10
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    from tasks.steps import tracker_of

    (tmp_path / "mlflow.db").write_text("no database " * 100)
    message = f"^The tracking server sqlite:///{tmp_path}/mlflow.db cannot be used: .*file is not a database"
    with pytest.raises(ServiceError, match=message):
        tracker_of(RunContext(name="bot", workspace=str(tmp_path)))


def test_interrupted_runs_are_closed_and_no_others(tracker: Tracker, server: MlflowTracking) -> None:
    other = Tracker(server.client(), tracker._experiment + "-other", server.artifact_root)
    foreign = other.open("bot", {})
    finished, one, two = (tracker.open(name, {}) for name in ("finished", "one", "two"))
    tracker.close(finished)
    assert tracker.close_interrupted() == 2
    assert tracker.close_interrupted() == 0
    status = {run.info.run_id: run.info.status for run in runs(tracker)}
    assert status == {finished: "FINISHED", one: "KILLED", two: "KILLED"}
    assert other.client.get_run(foreign).info.status == "RUNNING"


def test_an_experiment_is_made_once(tracker: Tracker, server: MlflowTracking) -> None:
    again = Tracker(server.client(), tracker._experiment, server.artifact_root)
    assert {tracker.open("a", {}), again.open("b", {})} == {run.info.run_id for run in runs(tracker)}
