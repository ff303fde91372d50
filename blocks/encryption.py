"""The key under which data are encrypted."""

import base64
import binascii
import os
from typing import Self

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

_BYTES = 32


class DataKey(Block):
    """A key for data at rest. Without it nobody can read what was encrypted under it: deleting the block deletes the data."""

    _block_type_name = "tuneflow data key"
    _block_type_slug = "tuneflow-data-key"

    key: SecretStr = Field(title="Key", description="32 random bytes in Base64: what `openssl rand -base64 32` prints.")

    @classmethod
    def make(cls) -> Self:
        """A block with a new random key, not yet saved."""
        return cls(key=SecretStr(base64.b64encode(os.urandom(_BYTES)).decode()))

    def material(self) -> bytes:
        """The key's bytes.

        Raises:
            ValueError: the field is not Base64 of 32 bytes; the message shows nothing of it.
        """
        try:
            material = base64.b64decode(self.key.get_secret_value().strip(), validate=True)
        except binascii.Error as error:
            raise ValueError("its key is not Base64") from error
        if len(material) != _BYTES:
            raise ValueError(f"its key has {len(material)} bytes, not {_BYTES}")
        return material
