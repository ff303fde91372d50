"""The maintenance flow: its name and parameter, the workspace it works on, its result and its artifact."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flows.maintain import maintain
from tasks.errors import WorkspaceError
from tasks.maintenance.spec import DAY, MaintenanceSpec
from tasks.maintenance.steps import clean_workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one cached result, 100 days old, of 1000 bytes and a manifest of 2."""
    entry = tmp_path / "cache" / "clean" / ("a" * 24)
    entry.mkdir(parents=True)
    for name, text in {"rows": "x" * 1000, "manifest.json": "{}"}.items():
        (entry / name).write_text(text)
        os.utime(entry / name, (time.time() - 100 * DAY,) * 2)
    monkeypatch.setenv("TUNEFLOW_WORKSPACE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


def test_the_flow_takes_one_request_that_renders_as_a_form() -> None:
    assert maintain.name == "maintenance"
    schema = maintain.parameters.model_dump()
    assert list(schema["properties"]) == ["request"]
    assert schema["definitions"]["MaintenanceSpec"]["title"] == "Clean a workspace"
    assert "docstring" not in json.dumps(schema)


def test_the_page_s_parameters_are_valid_and_name_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "maintain.md").read_text(encoding="utf-8")
    shown = [json.loads(text)["request"] for text in re.findall(r"--params '(.*?)'", page, re.DOTALL)]
    shown += [yaml.safe_load(text)["parameters"]["request"] for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert [MaintenanceSpec.model_validate(request).dry_run for request in shown] == [False, False]
    assert [name for name in MaintenanceSpec.model_fields if f"| `{name}` |" not in page] == []


def test_the_page_s_settings_of_prefect_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

    page = (Path(__file__).parents[2] / "docs" / "maintain.md").read_text(encoding="utf-8")
    for name, value in re.findall(r"export (PREFECT_SERVER_SERVICES_DB_VACUUM_\w+)=(\S+)", page):
        monkeypatch.setenv(name, value)
    settings = ServerServicesDBVacuumSettings()
    assert settings.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert settings.retention_period.days == 30


def test_a_workspace_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEFLOW_WORKSPACE", str(tmp_path / "nowhere"))
    with pytest.raises(WorkspaceError, match=r"There is no workspace .*nowhere. Set TUNEFLOW_WORKSPACE"):
        clean_workspace.fn(MaintenanceSpec())
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_first_a_dry_run_then_the_removal_each_with_an_artifact(workspace: Path, server: None) -> None:
    from prefect.artifacts import Artifact

    entry = workspace / "cache" / "clean" / ("a" * 24)
    dry = maintain(MaintenanceSpec())
    assert (dry.dry_run, dry.bytes_freed, dry.workspace) == (True, 1002, str(workspace))
    assert (entry / "rows").exists()
    artifact = Artifact.get("maintenance")
    assert artifact is not None
    assert artifact.description == "Dry run: 1 folder would go, which would free 0.00 GiB."
    done = maintain(request={"dry_run": False})  # type: ignore[arg-type]  # as a deployment sends it
    assert (done.dry_run, done.bytes_freed, done.items[0].removed) == (False, 1002, True)
    assert not entry.exists()
    artifact = Artifact.get("maintenance")
    assert artifact is not None
    assert artifact.description == "1 folder went, which freed 0.00 GiB."
    assert f"`cache/clean/{'a' * 24}`" in str(artifact.data)
    assert maintain(MaintenanceSpec(dry_run=False)).items == ()


@pytest.mark.slow
@pytest.mark.parametrize(("ends_as", "goes"), [("Completed", ["run", "cache"]), ("Suspended", [])])
def test_a_run_that_waits_for_a_person_keeps_what_it_needs(
    workspace: Path, server: None, ends_as: str, goes: list[str]
) -> None:
    from prefect import flow, get_client
    from prefect.states import Completed, Suspended

    with get_client(sync_client=True) as client:
        state = Suspended(timeout_seconds=3600) if ends_as == "Suspended" else Completed()
        flow_run = client.create_flow_run(flow(lambda: None, name="waits"), state=state)
    values = workspace / "runs" / "bot" / "values"
    values.mkdir(parents=True)
    broken = workspace / "runs" / "broken" / "values" / "context.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"flow_run_id": "of another kind"}')
    texts = {"context": json.dumps({"flow_run_id": str(flow_run.id)}), "model": f'"store://cache/clean/{"a" * 24}/model"'}
    for kind, text in texts.items():
        (values / f"{kind}.json").write_text(text)
        os.utime(values / f"{kind}.json", (time.time() - 100 * DAY,) * 2)
    assert [item.kind for item in maintain(MaintenanceSpec(runs_days=30)).items] == goes


@pytest.mark.slow
def test_a_store_block_that_is_not_there_is_named(workspace: Path, server: None) -> None:
    from tasks.errors import ServiceError

    with pytest.raises(ServiceError, match="store names the block 'team', but Prefect has no tuneflow store block"):
        maintain(MaintenanceSpec(store="team"))


@pytest.mark.slow
def test_a_store_block_s_cache_is_cleaned(workspace: Path, tmp_path_factory: pytest.TempPathFactory, server: None) -> None:
    from blocks.store import ArtifactStore

    shared = tmp_path_factory.mktemp("shared")
    (workspace / "cache").rename(shared / "cache")
    ArtifactStore(root=str(shared)).save("shared")
    assert maintain(MaintenanceSpec(dry_run=False)).items == ()
    done = maintain(MaintenanceSpec(dry_run=False, store="shared"))
    assert (done.store, [item.removed for item in done.items]) == (str(shared), [True])
    assert not (shared / "cache" / "clean" / ("a" * 24)).exists()
