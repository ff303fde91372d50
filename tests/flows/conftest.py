"""One workspace for the session: the quickstart runs in it once, as its user runs it; later requests use its base model."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def environment() -> dict[str, str]:
    """The user's environment, without what a test session has set for itself, and with the cores that they have."""
    hidden = ("PREFECT_", "TUNEFLOW_", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


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
