"""The connection to the store that holds caches and models."""

from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class ArtifactStore(Block):
    """A folder tree behind fsspec: s3://bucket/prefix, or a folder that every worker sees."""

    _block_type_name = "tuneflow store"
    _block_type_slug = "tuneflow-store"

    root: str = Field(title="Root", description="s3://bucket/prefix, or an absolute folder.")
    key: str = Field(default="", title="Access key", description="Empty: what the environment gives.")
    secret: SecretStr = Field(default=SecretStr(""), title="Secret key")
    endpoint_url: str = Field(default="", title="Endpoint", description="Of an S3 service other than Amazon's.")

    def options(self) -> dict[str, Any]:
        """Storage options for fsspec, a fresh dictionary each time."""
        options: dict[str, Any] = {}
        if self.key:
            options |= {"key": self.key, "secret": self.secret.get_secret_value()}
        if self.endpoint_url:
            options["endpoint_url"] = self.endpoint_url
        return options
