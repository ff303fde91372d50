"""Environment variables that every process of tuneflow gets, whoever starts it. Standard library only."""

from pathlib import Path

ROOT = Path(__file__).parents[1]  # of the project: deployments.yaml and infra/ lie there
EMBEDDED = "TUNEFLOW_EMBEDDED"  # set where the Prefect server is one command's own: it holds no limits and no work pools
# Nothing is sent anywhere: each library has a switch of its own.
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
}
PREFECT = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tuneflow",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
# Libraries that would write into the user's home, and their folder in the workspace's cache.
FOLDERS = {"HF_HOME": "hub", "MPLCONFIGDIR": "matplotlib", "TRITON_CACHE_DIR": "triton"}
