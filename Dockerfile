# One image: worker, trainer and server, with the versions of requirements.lock.
FROM python:3.11-slim-bookworm

# Empty: torch's CUDA build. The address of an index with CPU builds: the CPU build of the same version, by the same lock.
ARG PIP_EXTRA_INDEX_URL=""

# Telemetry off and Prefect's settings as in flows/environment.py; everything that a run leaves behind lies in /data.
ENV PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    HF_HUB_DISABLE_TELEMETRY=1 \
    GX_ANALYTICS_ENABLED=false \
    PREFECT_LOGGING_EXTRA_LOGGERS=tuneflow \
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW=ignore \
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TUNEFLOW_HOME=/app \
    TUNEFLOW_WORKSPACE=/data \
    HF_HOME=/data/hub

# tini is process 1: it hands signals on and reaps what ends.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 tuneflow \
    && install --directory --owner=tuneflow /data

WORKDIR /app

# By itself, so that a change of the code does not fetch the largest layer again.
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir -c requirements.lock torch

COPY pyproject.toml README.md LICENSE deployments.yaml ./
COPY flows ./flows
COPY tasks ./tasks
COPY blocks ./blocks
COPY examples ./examples
RUN python -m pip install --no-cache-dir -c requirements.lock -e .

USER tuneflow
VOLUME /data
ENTRYPOINT ["tini", "--", "tuneflow"]
CMD ["--help"]
