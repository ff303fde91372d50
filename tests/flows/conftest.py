"""One workspace for the session: the quickstart runs in it once, as its user runs it; later requests use its base model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.api import Api
from tests.servers import free_port, wait_for
from tests.servers import user_environment as environment

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON line that ends stdout."""
        loaded: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return loaded


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("tuneflow")), *arguments]


def tuneflow(*arguments: str, folder: Path) -> Ended:
    """Run the command in `folder`."""
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=800
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def write_request(folder: Path, **content: Any) -> str:
    path = folder / f"{content['name']}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def small(name: str, source: Path | str, **changes: Any) -> dict[str, Any]:
    """A request on the quickstart's base model that trains for seconds."""
    content: dict[str, Any] = {
        "name": name,
        "base_model": {"uri": "models/quickstart-base"},
        "data": {"source": str(source), "maximum_rows": 600},
        "training": {"max_steps": 12, "max_length": 256, "learning_rate": 0.003},
        "evaluation": {"benchmarks": [{"kind": "held_out", "items": 40, "generated_items": 8, "max_new_tokens": 16}]},
    }
    return {**content, **changes}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new folder, as a newcomer's."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def quickstart(home: Path) -> Ended:
    """The README's command, run once."""
    ended = tuneflow("run", str(ROOT / "examples" / "quickstart.yaml"), "--json", folder=home)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="session")
def workspace(home: Path, quickstart: Ended) -> Path:
    """The workspace that the quickstart left."""
    return home / ".tuneflow"


@dataclass(frozen=True)
class Installation:
    """What `tuneflow up` started in the session's workspace: a server, workers of both pools, three of them for devices."""

    workspace: Path
    port: int = field(default_factory=free_port)
    mlflow_port: int = field(default_factory=free_port)

    @property
    def api(self) -> Api:
        return Api(self.address)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever uses the server by hand."""
        return {**environment(), "PREFECT_API_URL": self.address, "PREFECT_HOME": str(self.workspace.parent / "client")}

    def up(self) -> dict[str, Any]:
        ended = tuneflow(
            "up", "--workspace", str(self.workspace), "--port", str(self.port), "--mlflow-port", str(self.mlflow_port),
            "--gpu-group", "cpu", "--gpu-group", "cpu", "--gpu-group", "cpu", "--json", folder=self.workspace,
        )  # fmt: skip
        assert ended.code == 0, ended.out + ended.err
        return ended.result

    def down(self) -> None:
        ended = tuneflow("down", "--workspace", str(self.workspace), folder=self.workspace)
        assert ended.code == 0, ended.out + ended.err

    def kill(self, name: str) -> None:
        """SIGKILL to one of its processes."""
        recorded = json.loads((self.workspace / "services" / "services.json").read_text())
        (daemon,) = [each for each in recorded["daemons"] if each["name"] == name]
        process = psutil.Process(daemon["pid"])
        process.kill()
        wait_for(lambda: not psutil.pid_exists(daemon["pid"]) or process.status() == psutil.STATUS_ZOMBIE, 10)


@pytest.fixture(scope="session")
def installation(workspace: Path) -> Iterator[Installation]:
    """`tuneflow up`, for all tests of the session that need a server with workers."""
    started = Installation(workspace)
    started.up()
    yield started
    started.down()
