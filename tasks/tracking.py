"""What MLflow is told: a parent run per request, a child run per step, datasets, metrics, artifacts and model versions."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import ModelError, ServiceError
from tasks.storage import link_tree

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LONGEST_PARAMETER = 500
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # MLflow reads it at each request
_PARENT = "mlflow.parentRunId"


class Tracker:
    """One request's runs in one experiment.

    Args:
        client: of the tracking server.
        experiment: its name; made where missing.
        artifact_root: local folder for artifacts where the server is a local database; "" lets the server choose.
        parent: run id of the request; "" before it is opened.
    """

    def __init__(self, client: "MlflowClient", experiment: str, artifact_root: str = "", parent: str = "") -> None:
        self.client, self.parent = client, parent
        self._experiment = experiment
        self._artifact_root = artifact_root

    def open(self, name: str, tags: Mapping[str, str]) -> str:
        """Start a run, below the parent where there is one; its id."""
        links = {_PARENT: self.parent} if self.parent else {}
        run = self.client.create_run(self._experiment_id(), tags={**tags, **links}, run_name=name)
        return str(run.info.run_id)

    def close(self, run_id: str, status: str = "FINISHED") -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def reopen(self, run_id: str) -> None:
        """Let a run that was broken off go on."""
        self.client.update_run(run_id, status="RUNNING")

    def close_interrupted(self) -> int:
        """End runs that no process goes on with, those still RUNNING when the same request starts anew; how many requests."""
        from mlflow.entities import ViewType

        running = self.client.search_runs([self._experiment_id()], "attributes.status = 'RUNNING'", ViewType.ACTIVE_ONLY)
        for run in running:
            self.client.set_terminated(run.info.run_id, "KILLED")
        return sum(_PARENT not in run.data.tags for run in running)

    def log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        """Log flat parameters; long values are cut."""
        from mlflow.entities import Param

        entities = [Param(_name(key), str(value)[:_LONGEST_PARAMETER]) for key, value in parameters.items()]
        for start in range(0, len(entities), 100):
            self.client.log_batch(run_id, params=entities[start : start + 100])

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tag a run; unlike a parameter a tag may change, as it does in a run that is taken up again."""
        for key, value in tags.items():
            self.client.set_tag(run_id, _name(key), value)

    def log_metrics(self, run_id: str, points: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Log (step, values) pairs in as few calls as the server takes."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [
            Metric(_name(key), float(value), now, step)
            for step, values in points
            for key, value in values.items()
            if isinstance(value, int | float)
        ]
        for start in range(0, len(entities), 1000):
            self.client.log_batch(run_id, metrics=entities[start : start + 1000])

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Log every ten seconds what this machine's processors, memory, disk, network and NVIDIA GPUs are doing.

        GPUs are seen where nvidia-ml-py is installed.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.client.tracking_uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def log_dataset(self, run_id: str, name: str, digest: str, source: str, profile: str) -> None:
        """Say which data a run was about."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name=name, digest=digest[:36], source_type="tuneflow", source=source, profile=profile)
        context = InputTag(key="mlflow.data.context", value="training")
        self.client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=[context])])

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """Store a text as an artifact."""
        self.client.log_text(run_id, text, path)

    def log_folder(self, run_id: str, folder: Path, path: str) -> str:
        """Store a folder as an artifact, by hard links where artifacts are local; its address."""
        root = str(self.client.get_run(run_id).info.artifact_uri)
        if Path(root).is_absolute():  # anything else has a scheme, mlflow-artifacts:/ among them
            link_tree(folder, Path(root) / path)
        else:
            self.client.log_artifacts(run_id, str(folder), path)
        return f"{root}/{path}"

    def register(self, name: str, source: str, run_id: str, tags: Mapping[str, str]) -> str:
        """Make a version of the registered model `name`; its number."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(self.client.create_model_version(name, source, run_id, tags=dict(tags)).version)

    def promote(self, name: str, version: str, alias: str) -> None:
        """Give `alias` to a version; its holder so far becomes `previous`."""
        before = self.alias(name, alias)
        if before == version:
            return
        if before:
            self.client.set_registered_model_alias(name, "previous", before)
        self.client.set_registered_model_alias(name, alias, version)

    def version_with(self, name: str, tag: str, value: str) -> str:
        """The newest version of a model that carries a tag, or ""."""
        found = self.client.search_model_versions(f"name = '{name}'")
        numbers = [int(version.version) for version in found if version.tags.get(tag) == value]
        return str(max(numbers)) if numbers else ""

    def alias(self, name: str, alias: str) -> str:
        """The version that holds an alias, or ""."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_model_version_by_alias(name, alias).version)
        except MlflowException:
            return ""

    def fetch_model(self, uri: str) -> Path:
        """A local folder with the files of models:/name/version or models:/name@alias.

        Raises:
            ModelError: there is no such version.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        name, alias = uri.removeprefix("models:/").partition("@")[::2]
        try:
            if alias:
                source = str(self.client.get_model_version_by_alias(name, alias).source)
            else:
                name, _, version = name.partition("/")
                source = str(self.client.get_model_version(name, version).source)
        except MlflowException as error:
            raise ModelError(f"{uri} is not a registered model: {error.message}") from error
        folder = Path(source)
        return folder if folder.is_absolute() else Path(download_artifacts(source, tracking_uri=self.client.tracking_uri))

    def probe(self) -> None:
        """Write one run and delete it.

        Raises:
            ServiceError: the server does not do that.
        """
        try:
            with _impatience():
                run_id = self.open("probe", {"tuneflow.probe": "true"})
                self.close(run_id)
                self.client.delete_run(run_id)
        except Exception as error:
            raise ServiceError(f"The tracking server cannot be written to and deleted from: {error}.") from error

    def _experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        location = f"{self._artifact_root}/{self._experiment}" if self._artifact_root else None
        return str(self.client.create_experiment(self._experiment, artifact_location=location))


@contextmanager
def _impatience() -> Iterator[None]:
    """One retry, not MLflow's seven in four minutes: a run waits for a server to come back, a look does not."""
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "1"
    try:
        yield
    finally:
        os.environ.pop(_RETRIES)
        if before is not None:
            os.environ[_RETRIES] = before


def _name(key: str) -> str:
    """A key in MLflow's alphabet."""
    return "".join(letter if letter.isalnum() or letter in "_-./ " else "-" for letter in key)[:250] or "-"
