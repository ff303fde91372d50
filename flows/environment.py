"""Variables that must stand before Prefect, MLflow or a hub client is imported. Standard library only."""

import os
from pathlib import Path

# Nothing is sent anywhere: each library has a switch of its own.
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
}
_PREFECT = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tuneflow",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
_CONSOLE = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command line tells the story itself
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}

# Libraries that would write into the user's home.
_FOLDERS = {"HF_HOME": "hub", "MPLCONFIGDIR": "matplotlib", "TRITON_CACHE_DIR": "triton"}


def set_environment(workspace: Path) -> None:
    """Set what the user has not set."""
    for name, value in {**_QUIET, **_PREFECT, **_CONSOLE}.items():
        os.environ.setdefault(name, value)
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no GPU
    for name, folder in _FOLDERS.items():
        os.environ.setdefault(name, str(workspace / "cache" / folder))
    os.environ["TUNEFLOW_WORKSPACE"] = str(workspace)
    if not os.environ.get("PREFECT_API_URL"):
        os.environ["PREFECT_HOME"] = str(workspace / "prefect")
