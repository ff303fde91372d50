"""What may import what, what is pulled in, and that the lock file says what is installed."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "blocks")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = {
    canonicalize_name(name): version
    for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
}
NOT_LOCKED = {"tuneflow", "pip", "setuptools", "wheel", "triton"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_every_contract_of_imports_is_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


VIOLATIONS = {
    "a stage imports another": ("tasks/data/cleaning.py", "import tasks.training.spec", "stages never import each other"),
    "a pure module imports Prefect": ("tasks/training/schedule.py", "import prefect", "in tasks only steps.py imports Prefect"),
    "a pure module imports a block": ("tasks/storage.py", "import blocks.store", "in tasks only steps.py imports Prefect"),
    "a task imports a flow": ("tasks/steps.py", "import flows.request", "flows -> tasks -> blocks, never back"),
    "a block imports a task": ("blocks/hub.py", "import tasks.errors", "flows -> tasks -> blocks, never back"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_forbidden_import_breaks_its_contract(name: str, tmp_path: Path) -> None:
    file, line, contract = VIOLATIONS[name]
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout
    assert any(broken.startswith(contract) for broken in re.findall(r"(?m)^(.+?) BROKEN", done.stdout))


@pytest.mark.parametrize(
    "module",
    [
        "flows.request",
        "flows.reading",
        "tasks.training.methods",
        "tasks.data.spec",
        "tasks.shim",
        "tasks.services.state",
        "flows.services",
        "flows.cli",
    ],
)
def test_specs_are_light(module: str) -> None:
    heavy = ("torch", "prefect", "pandas", "transformers", "mlflow", "pyarrow", "peft", "fsspec", "scipy", "numpy")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_other_distribution_owns_our_names() -> None:
    owners = packages_distributions()  # an editable install may own no name at all
    assert {owner for name in PACKAGES for owner in owners.get(name, [])} <= {"tuneflow"}


def test_no_flow_file_is_named_like_a_module_that_can_be_imported() -> None:
    importable = {*packages_distributions(), *sys.stdlib_module_names}
    assert {path.stem for path in (ROOT / "flows").glob("*.py")} & importable == set()


def test_the_lock_file_pins_what_is_installed() -> None:
    installed = {
        canonicalize_name(each.metadata["Name"]): each.version for each in distributions(path=[sysconfig.get_path("purelib")])
    }
    ours = {
        # torch==2.13.0+cpu is the build of 2.13.0 that is at hand here
        name: version.partition("+")[0]
        for name, version in installed.items()
        if name not in NOT_LOCKED and not name.startswith("nvidia-")
    }
    assert {name: LOCK.get(name) for name in ours} == ours


def test_every_dependency_is_locked_within_its_range() -> None:
    wanted = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    outside = {
        line: LOCK.get(canonicalize_name(Requirement(line).name))
        for line in wanted
        if LOCK.get(canonicalize_name(Requirement(line).name), "") not in Requirement(line).specifier
    }
    assert outside == {}
