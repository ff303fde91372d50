"""The connection to a model hub."""

from prefect.blocks.core import Block
from pydantic import Field, SecretStr


class ModelHub(Block):
    """An account on the Hugging Face hub."""

    _block_type_name = "tuneflow model hub"
    _block_type_slug = "tuneflow-model-hub"

    token: SecretStr = Field(title="Token", description="A read token is enough.")
