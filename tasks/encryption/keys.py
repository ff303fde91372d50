"""The key of a dataset: random, and kept beside the data in a form that only the holder of the master key can open."""

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from tasks.encryption.container import ID_BYTES, KEY_BYTES
from tasks.errors import DatasetError

KEY_FILE = "dataset-key.json"
_NONCE = 12


@dataclass(frozen=True)
class MasterKey:
    """The key that opens the keys of datasets; it shows itself nowhere.

    Raises:
        ValueError: it is not 32 bytes long.
    """

    material: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.material) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, not {len(self.material)}")

    @property
    def name(self) -> str:
        """What it is called in messages and cache keys: 16 letters, from which nobody gets it."""
        return _name_of(b"tuneflow master key", self.material).hex()


@dataclass(frozen=True)
class DatasetKey:
    """The key of one dataset's files."""

    material: bytes = field(repr=False)

    @property
    def name(self) -> bytes:
        """8 bytes that stand in the head of each of its files."""
        return _name_of(b"tuneflow data key", self.material)


def _name_of(kind: bytes, material: bytes) -> bytes:
    return hashlib.sha256(kind + b"\0" + material).digest()[:ID_BYTES]


def new_key() -> DatasetKey:
    """A random key."""
    return DatasetKey(os.urandom(KEY_BYTES))


def wrapped(key: DatasetKey, master: MasterKey) -> str:
    """The text of a dataset's key file."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE)
    sealed = nonce + AESGCM(master.material).encrypt(nonce, key.material, key.name)
    content = {"key": key.name.hex(), "opened_by": master.name, "sealed": base64.b64encode(sealed).decode()}
    return json.dumps(content, indent=1)


def unwrapped(path: Path, master: MasterKey) -> DatasetKey:
    """The key in a dataset's key file.

    Raises:
        DatasetError: the file is damaged, or another master key opens it.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sealed, name, opened_by = base64.b64decode(content["sealed"]), bytes.fromhex(content["key"]), content["opened_by"]
        if opened_by != master.name:
            raise DatasetError(
                f"{path.parent} was encrypted under the key {opened_by}, but the block of data.encryption holds the key "
                f"{master.name}. Put the former key back into the block, or remove the folder and start the run again."
            )
        return DatasetKey(AESGCM(master.material).decrypt(sealed[:_NONCE], sealed[_NONCE:], name))
    except (OSError, ValueError, KeyError, TypeError, InvalidTag) as error:
        raise DatasetError(
            f"{path} is damaged, so that nothing beside it can be read. Remove {path.parent} and start the run again, which "
            f"writes it anew."
        ) from error
