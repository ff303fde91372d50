"""The image and the compose file, as far as files can be checked without a container engine."""

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import environment

ROOT = Path(__file__).parents[1]
SECRET = re.compile(r"password|passwd|secret|token|auth|api_key|access_key", re.IGNORECASE)
INSTALL = "python -m pip install --no-cache-dir -c requirements.lock -e ."

Instruction = tuple[str, str]


def parse(text: str) -> list[Instruction]:
    """(name, argument) of each instruction; comments are left out and continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.partition(" ")[::2] for line in joined.splitlines()]
    return [(name.upper(), argument.strip()) for name, argument in pairs]


DOCKERFILE = parse((ROOT / "Dockerfile").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text(encoding="utf-8"))
IGNORED = [
    line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
]


def arguments(name: str) -> list[str]:
    return [argument for found, argument in DOCKERFILE if found == name]


def variables() -> dict[str, str]:
    return dict(word.split("=", 1) for argument in arguments("ENV") for word in shlex.split(argument))


def is_ignored(path: str) -> bool:
    return any(fnmatch(part, pattern.removeprefix("**/")) for pattern in IGNORED for part in path.split("/"))


def test_the_parser_joins_lines_and_drops_comments() -> None:
    assert parse("# a\nRUN one \\\n  # b\n  && two\n\nuser me\n") == [("RUN", "one && two"), ("USER", "me")]


def test_the_base_is_pinned_by_tag() -> None:
    for image in arguments("FROM"):
        name, _, tag = image.partition(":")
        assert name
        assert re.match(r"\d+\.\d+", tag), f"{image}: use a tag with a version"


def test_the_base_has_the_python_of_the_project() -> None:
    assert arguments("FROM") == ["python:3.11-slim-bookworm"]
    assert '">=3.11,<3.12"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_each_copied_source_is_there_and_reaches_the_builder() -> None:
    sources = [source for argument in arguments("COPY") for source in argument.split()[:-1]]
    assert {"requirements.lock", "pyproject.toml", "flows", "tasks", "blocks"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if is_ignored(source)] == []


def test_nothing_is_added_from_addresses() -> None:
    assert arguments("ADD") == []
    assert not any("http://" in argument or "https://" in argument for _, argument in DOCKERFILE)


def test_every_installation_follows_the_lock_and_keeps_no_cache() -> None:
    installs = [argument for argument in arguments("RUN") if "pip install" in argument]
    assert INSTALL in installs
    for install in installs:
        assert "--no-cache-dir" in install
        assert "-c requirements.lock" in install


def test_the_image_installs_as_the_makefile_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    line = next(line.strip() for line in makefile.splitlines() if "pip install" in line and line.rstrip().endswith("-e ."))
    options = [word for word in shlex.split(line.replace("$(BIN)/", "")) if word != "--quiet"]
    assert options == [word for word in shlex.split(INSTALL) if word != "--no-cache-dir"]


def test_packages_are_not_upgraded_and_their_lists_are_removed() -> None:
    for run in arguments("RUN"):
        assert "apt-get upgrade" not in run
        assert "dist-upgrade" not in run
        if "apt-get" in run:
            assert "apt-get update" in run
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists/*" in run


def test_the_last_user_is_not_root() -> None:
    assert arguments("USER")[-1] not in ("root", "0", "0:0")
    assert [name for name, _ in DOCKERFILE].index("USER") < [name for name, _ in DOCKERFILE].index("ENTRYPOINT")


def test_no_secret_is_written_into_the_image() -> None:
    names = [*variables(), *(argument.split("=")[0] for argument in arguments("ARG"))]
    assert [name for name in names if SECRET.search(name)] == []


@pytest.mark.parametrize("group", ["QUIET", "PREFECT"])
def test_the_environment_is_that_of_the_command_line(group: str) -> None:
    wanted: dict[str, str] = getattr(environment, group)
    assert {name: variables().get(name) for name in wanted} == wanted


def test_folders_are_absolute_and_the_workspace_is_a_volume() -> None:
    assert all(folder.startswith("/") for folder in arguments("WORKDIR"))
    assert arguments("WORKDIR") == [variables()["TUNEFLOW_HOME"]]
    assert arguments("VOLUME") == [variables()["TUNEFLOW_WORKSPACE"]]


def test_an_init_process_comes_first_in_the_image() -> None:
    assert arguments("ENTRYPOINT") == ['["tini", "--", "tuneflow"]']


@pytest.mark.parametrize("path", [".git", ".venv", ".tuneflow", "flows/__pycache__", "tests"])
def test_what_the_builder_does_not_see(path: str) -> None:
    assert is_ignored(path)


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_ports_are_bound_to_loopback(name: str) -> None:
    for port in COMPOSE["services"][name].get("ports", []):
        assert str(port).startswith("127.0.0.1:"), f"{name}: {port}"


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_images_are_pinned_by_tag(name: str) -> None:
    tag = COMPOSE["services"][name]["image"].partition(":")[2]
    assert re.match(r"\d", tag)


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_services_take_secrets_from_files(name: str) -> None:
    service = COMPOSE["services"][name]
    set_here = {key: str(value) for key, value in service.get("environment", {}).items() if SECRET.search(key)}
    assert all(key.endswith("_FILE") and value.startswith("/run/secrets/") for key, value in set_here.items())
    text = yaml.safe_dump(service)
    assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(service.get("secrets", []))


def test_secret_files_have_no_default_place() -> None:
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("${TUNEFLOW_SECRETS:?")


def test_no_address_holds_a_password() -> None:
    text = (ROOT / "infra" / "compose.yaml").read_text(encoding="utf-8")
    assert re.findall(r"://[^/\s:@]+:[^/\s@]+@", text) == []


def test_every_volume_and_dependency_is_declared() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", {})) <= set(services)


def test_containers_with_runs_have_an_init_process() -> None:
    own = [service for service in COMPOSE["services"].values() if service["image"].startswith("tuneflow")]
    assert own
    assert all(service["init"] is True for service in own)
