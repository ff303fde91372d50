"""The log-ins with which data sources are opened."""

import json
from typing import Any

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator


class DataAccess(Block):
    """What opens the addresses of data: of S3, of the Hugging Face hub, and of whatever else fsspec speaks."""

    _block_type_name = "tuneflow data access"
    _block_type_slug = "tuneflow-data-access"

    key: str = Field(default="", title="Access key", description="Of s3:// addresses. Empty: what the environment gives.")
    secret: SecretStr = Field(default=SecretStr(""), title="Secret key", description="Of s3:// addresses.")
    session_token: SecretStr = Field(default=SecretStr(""), title="Session token", description="Of temporary S3 keys.")
    endpoint_url: str = Field(default="", title="Endpoint", description="Of an S3 service other than Amazon's.")
    hub_token: SecretStr = Field(
        default=SecretStr(""), title="Hub token", description="Of hf:// addresses; a read token is enough."
    )
    others: SecretStr = Field(
        default=SecretStr(""), title="Others",
        description='fsspec\'s storage options by protocol, as JSON: {"gs": {"token": "..."}}. They win over the fields above.',
    )  # fmt: skip

    @field_validator("others")
    @classmethod
    def _by_protocol(cls, value: SecretStr) -> SecretStr:
        _parsed(value.get_secret_value())
        return value

    def options(self) -> dict[str, dict[str, Any]]:
        """Storage options for fsspec by protocol, fresh dictionaries each time."""
        secrets = {"secret": self.secret, "token": self.session_token}
        s3: dict[str, Any] = {name: value.get_secret_value() for name, value in secrets.items() if value.get_secret_value()}
        s3 |= {name: value for name, value in (("key", self.key), ("endpoint_url", self.endpoint_url)) if value}
        token = self.hub_token.get_secret_value()
        found = {"s3": s3, "hf": {"token": token} if token else {}} | _parsed(self.others.get_secret_value())
        return {protocol: options for protocol, options in found.items() if options}


def _parsed(text: str) -> dict[str, dict[str, Any]]:
    """The options by protocol; a ValueError shows nothing of the text."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        place = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "the text"
        raise ValueError(f"not JSON at {place}; expected options by protocol") from None
    if not isinstance(found, dict) or not all(isinstance(options, dict) for options in found.values()):
        raise ValueError('expected a JSON object of objects, options by protocol: {"gs": {"token": "..."}}')
    return found
