"""Variables that must stand before Prefect, MLflow or a hub client is imported. Standard library only."""

import os
from pathlib import Path

from tasks.environment import FOLDERS, PREFECT, QUIET

_CONSOLE = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command line tells the story itself
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


def set_environment(workspace: Path) -> None:
    """Set what the user has not set."""
    for name, value in {**QUIET, **PREFECT, **_CONSOLE}.items():
        os.environ.setdefault(name, value)
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no GPU
    for name, folder in FOLDERS.items():
        os.environ.setdefault(name, str(workspace / "cache" / folder))
    os.environ["TUNEFLOW_WORKSPACE"] = str(workspace)
    if not os.environ.get("PREFECT_API_URL"):
        os.environ["PREFECT_HOME"] = str(workspace / "prefect")
