"""The manifest of an indexed Job whose pods are a training's hosts, as far as a file can be checked without a cluster."""

import re
from typing import Any

import jsonschema
import yaml

from tasks.training.hosts import on_host
from tasks.training.job import Cluster
from tests.conftest import ROOT

DOCUMENTS: dict[str, dict[str, Any]] = {
    each["kind"]: each for each in yaml.safe_load_all((ROOT / "infra" / "training-hosts.yaml").read_text(encoding="utf-8"))
}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 63}
CONTAINER = {
    "type": "object", "required": ["name", "image"], "additionalProperties": False,
    "properties": {
        "name": NAME, "image": {"type": "string"}, "command": {"type": "array", "items": {"type": "string"}},
        "resources": {"type": "object"},
        "volumeMounts": {"type": "array", "items": {"type": "object", "required": ["name", "mountPath"]}},
    },
}  # fmt: skip
POD = {
    "type": "object", "required": ["containers", "restartPolicy"], "additionalProperties": False,
    "properties": {
        "restartPolicy": {"enum": ["Never", "OnFailure"]}, "automountServiceAccountToken": {"type": "boolean"},
        "topologySpreadConstraints": {
            "type": "array", "items": {"type": "object", "required": ["maxSkew", "topologyKey", "whenUnsatisfiable"]},
        },
        "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
        "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}  # fmt: skip
# The fields of batch/v1 Job that are used here, as the API's reference has them.
JOB = {
    "type": "object", "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "batch/v1"}, "metadata": {"type": "object", "required": ["name"], "properties": {"name": NAME}},
        "spec": {
            "type": "object", "required": ["template"], "additionalProperties": False,
            "properties": {
                "completionMode": {"enum": ["Indexed", "NonIndexed"]}, "completions": {"type": "integer", "minimum": 1},
                "parallelism": {"type": "integer", "minimum": 1},
                "backoffLimit": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
                "podReplacementPolicy": {"enum": ["TerminatingOrFailed", "Failed"]},
                "template": {"type": "object", "required": ["spec"], "properties": {"spec": POD}},
            },
        },
    },
}  # fmt: skip


def test_the_job_is_one_of_kubernetes() -> None:
    jsonschema.validate(DOCUMENTS["Job"], JOB)


def test_every_host_has_an_index_and_runs_at_once() -> None:
    spec = DOCUMENTS["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] > 1


def test_the_names_agree() -> None:
    pod = DOCUMENTS["Job"]["spec"]["template"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]} == set(volumes)
    assert volumes["workspace"]["persistentVolumeClaim"]["claimName"] == DOCUMENTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert DOCUMENTS["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == pod["metadata"]["labels"]
    binding = DOCUMENTS["RoleBinding"]
    assert binding["roleRef"]["name"] == DOCUMENTS["Role"]["metadata"]["name"]
    assert binding["subjects"][0]["name"] == DOCUMENTS["ServiceAccount"]["metadata"]["name"]


def test_a_run_may_start_commands_in_pods_and_no_more() -> None:
    allowed = {resource: rule["verbs"] for rule in DOCUMENTS["Role"]["rules"] for resource in rule["resources"]}
    assert allowed == {"pods": ["get", "list"], "pods/exec": ["create"]}


def test_the_command_of_the_documentation_reaches_the_pod_of_an_index() -> None:
    command = (
        "sh -c 'exec kubectl exec -i \"$(kubectl get pod -o name --field-selector status.phase=Running -l "
        'batch.kubernetes.io/job-name=tuneflow-hosts,batch.kubernetes.io/job-completion-index=$0)" -- sh -c "$1"\' '
        "{host} {command}"
    )
    words = on_host(Cluster(hosts=("0", "1"), address="10.0.0.1", command=command), "1", ["kill", "-9", "7"])
    assert words[:2] == ["sh", "-c"]
    assert words[3] == "1"
    assert re.search(r"exec kill -9 7$", words[4])
