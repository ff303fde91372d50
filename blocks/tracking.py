"""The connection to an MLflow tracking server."""

import os
from typing import TYPE_CHECKING

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

if TYPE_CHECKING:
    from mlflow import MlflowClient


class MlflowTracking(Block):
    """An MLflow tracking server and, with it, its model registry."""

    _block_type_name = "tuneflow MLflow tracking"
    _block_type_slug = "tuneflow-mlflow-tracking"

    tracking_uri: str = Field(title="Tracking URI", description="http(s)://host:port, or sqlite:///file for a local database.")
    artifact_root: str = Field(default="", title="Artifact root", description="Where a local database keeps artifacts.")
    username: str = Field(default="", title="User name", description="Empty: no log-in.")
    password: SecretStr = Field(default=SecretStr(""), title="Password")
    token: SecretStr = Field(default=SecretStr(""), title="Token", description="Instead of user name and password.")

    def client(self) -> "MlflowClient":
        """A client of this server. MLflow reads log-ins from the environment alone, so they are put there."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        for name, value in (
            ("MLFLOW_TRACKING_USERNAME", self.username),
            ("MLFLOW_TRACKING_PASSWORD", self.password.get_secret_value()),
            ("MLFLOW_TRACKING_TOKEN", self.token.get_secret_value()),
        ):
            if value:
                os.environ[name] = value
        from mlflow import MlflowClient

        return MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
