"""The shipped base job templates, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.workers.process import ProcessWorker

from tasks.errors import InputError, ServiceError
from tasks.installation.pools import FOLDER, Pool, check_type, read_template, wanted_pools
from tasks.installation.spec import InstallationSpec

SPEC = InstallationSpec(workspace=Path("/w"), cpu_runs=7, gpu_runs=3)


def test_each_pool_has_its_type_its_limit_and_its_own_template() -> None:
    pools = wanted_pools(SPEC)
    assert [(pool.name, pool.type, pool.limit) for pool in pools] == [
        ("cpu", "process", 7), ("gpu", "process", 3), ("k8s-gpu", "kubernetes", 3),
    ]  # fmt: skip
    assert {path.stem for path in FOLDER.glob("*.json")} == {pool.name for pool in pools}


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_process_pool_is_prefect_s_own_without_streamed_output(name: str) -> None:
    ours, own = read_template(FOLDER / f"{name}.json"), ProcessWorker.get_default_base_job_template()
    streams = ours["variables"]["properties"].pop("stream_output")
    own["variables"]["properties"].pop("stream_output")
    assert streams["default"] is False
    assert ours == own


def test_a_kubernetes_job_gets_a_gpu_shared_memory_and_the_workspace_and_is_never_started_twice() -> None:
    template = read_template(FOLDER / "k8s-gpu.json")
    job = template["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    assert job["backoffLimit"] == 0
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 120)
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpu_limit }}"
    shared, workspace = pod["volumes"]
    assert shared["emptyDir"]["medium"] == "Memory"
    assert "persistentVolumeClaim" in workspace
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == ["/dev/shm", "{{ workspace_path }}"]  # noqa: S108
    assert (pod["nodeSelector"], pod["tolerations"]) == ("{{ node_selector }}", "{{ tolerations }}")
    assert template["variables"]["properties"]["gpu_limit"]["default"] == 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_no_template_holds_a_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert [word for word in ("password", "secretkeyref", "auth_string", "api_key", "token") if word in text] == []


GOOD: dict[str, Any] = {
    "job_configuration": {"env": "{{ env }}", "parts": [{"limit": "{{ limit }}", "fixed": 0}]},
    "variables": {"properties": {"env": {}, "limit": {}}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"job_configuration": {"a": ["{{ env }}-{{ limit }}", "{{ other }}"]}}, r"used \(other\) are not declared"),
        ({"job_configuration": {"env": "{{ env }}"}}, r"those declared \(limit\) are not used"),
        ({"variables": {}}, "is no base job template: KeyError"),
    ],
)
def test_a_wrong_template_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "pool.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert read_template(path) == GOOD
    path.write_text(json.dumps({**GOOD, **change}), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_template(path)


def test_a_template_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cpu\.json is no base job template: FileNotFoundError"):
        wanted_pools(SPEC, tmp_path)
    (tmp_path / "cpu.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is no base job template: JSONDecodeError"):
        wanted_pools(SPEC, tmp_path)


def test_a_pool_s_type_must_be_as_asked() -> None:
    pool = Pool("gpu", "process", 1, {})
    check_type(pool, "process")
    with pytest.raises(ServiceError, match="The work pool 'gpu' is of type 'docker', but type 'process' is needed"):
        check_type(pool, "docker")
