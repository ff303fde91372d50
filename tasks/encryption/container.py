"""A file as sealed chunks: each can be read alone, and none can be changed, moved, left out or added unseen.

    48 bytes of header: "TFSEAL", two bytes for the version, 8 bytes that name the key, 32 random bytes
    chunks of 64 KiB, each with its 16-byte tag; the last one is shorter, and empty where the file is

The chunks' key is drawn from the dataset's key and the file's random bytes (HKDF-SHA256, RFC 5869), so that it serves for one
file alone and the nonces may count from 0. A nonce is a chunk's number and whether it is the last one (STREAM: Hoang et al.,
2015), which binds the order and the total; the header is associated data of every chunk.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tasks.errors import DatasetError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from typing_extensions import Buffer

KEY_BYTES = 32
ID_BYTES = 8
CHUNK = 64 << 10
_MAGIC = b"TFSEAL\x00\x01"
_SALT = 32
_HEADER = len(_MAGIC) + ID_BYTES + _SALT
_TAG = 16
_SEALED = CHUNK + _TAG


def is_sealed(path: Path) -> bool:
    """Whether a file begins as sealed ones do."""
    with path.open("rb", buffering=0) as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _cipher(key: bytes, header: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=header[-_SALT:], info=b"tuneflow file 1").derive(key))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


class Writer(io.RawIOBase):
    """Seals what is written to `raw`. Only `finish` makes the file whole: one that was merely closed cannot be read.

    Args:
        raw: where to.
        key: of the dataset.
        key_id: its name, 8 bytes.
    """

    def __init__(self, raw: BinaryIO, key: bytes, key_id: bytes) -> None:
        super().__init__()
        self._raw = raw
        self._header = _MAGIC + key_id + os.urandom(_SALT)
        self._cipher = _cipher(key, self._header)
        self._waiting, self._number, self._told = bytearray(), 0, 0
        self._out = memoryview(bytearray(_SEALED))
        raw.write(self._header)

    def writable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes written so far, before sealing."""
        return self._told

    def write(self, data: "Buffer", /) -> int:
        """Seal all but the last chunk, of which nobody knows yet that it is the last."""
        with memoryview(data) as view, view.cast("B") as whole:
            size, at = len(whole), 0
            if self._waiting:
                at = min(size, CHUNK - len(self._waiting))
                self._waiting += whole[:at]
            if at < size and self._waiting:
                self._seal(self._waiting, last=False)
                self._waiting.clear()
            while size - at > CHUNK:
                self._seal(whole[at : at + CHUNK], last=False)
                at += CHUNK
            self._waiting += whole[at:]
        self._told += size
        return size

    def finish(self) -> None:
        """Seal the last chunk."""
        self._seal(self._waiting, last=True)

    def _seal(self, plain: bytes | bytearray | memoryview, last: bool) -> None:
        size = len(memoryview(plain)) + _TAG
        self._cipher.encrypt_into(_nonce(self._number, last), plain, self._header, self._out[:size])
        self._raw.write(self._out[:size])
        self._number += 1


class Reader(io.RawIOBase):
    """A sealed file, read from any place. Opening it proves the key and, by the last chunk, that nothing is missing.

    Args:
        path: the file.
        key: of the dataset.
        key_id: its name, 8 bytes.

    Raises:
        DatasetError: it was sealed with another key, or is damaged.
    """

    def __init__(self, path: Path, key: bytes, key_id: bytes) -> None:
        super().__init__()
        self.path, self._at = path, 0
        self._raw = path.open("rb", buffering=0)
        try:
            self._header = self._raw.read(_HEADER) or b""
            size = os.fstat(self._raw.fileno()).st_size - _HEADER
            self._chunks = -(-size // _SEALED)
            self.size = size - self._chunks * _TAG
            if self._chunks < 1 or size - (self._chunks - 1) * _SEALED < _TAG:
                raise self._damaged("it is cut off")
            self._refuse_other_key(key_id)
            self._cipher = _cipher(key, self._header)
            self._kept: tuple[int, bytes] = (-1, b"")
            self._chunk(self._chunks - 1)
        except BaseException:
            self._raw.close()
            raise

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """So many bytes, fewer at the end; all that are left where `size` is negative."""
        left = max(0, self.size - self._at)
        wanted = bytearray(left if size is None or size < 0 else min(size, left))
        self.readinto(wanted)
        return bytes(wanted)

    def readinto(self, buffer: "Buffer", /) -> int:
        """Fill a buffer as far as the file goes; the bytes read."""
        with memoryview(buffer) as view, view.cast("B") as out:
            count = max(0, min(len(out), self.size - self._at))
            done = 0
            while done < count:
                number, first = divmod(self._at + done, CHUNK)
                if first == 0 and count - done >= CHUNK and number < self._chunks - 1:
                    self._open(number, out[done : done + CHUNK])
                    done += CHUNK
                    continue
                part = self._chunk(number)[first : first + count - done]
                out[done : done + len(part)] = part
                done += len(part)
        self._at += count
        return count

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_raw"):
            self._raw.close()
        super().close()

    def _chunk(self, number: int) -> bytes:
        """A chunk; the one that was read last is kept, since small reads follow one another."""
        if self._kept[0] != number:
            whole = bytearray(self.size - number * CHUNK if number == self._chunks - 1 else CHUNK)
            self._open(number, whole)
            self._kept = number, bytes(whole)
        return self._kept[1]

    def _open(self, number: int, out: bytearray | memoryview) -> None:
        from cryptography.exceptions import InvalidTag

        self._raw.seek(_HEADER + number * _SEALED)
        sealed = self._raw.read(len(memoryview(out)) + _TAG) or b""
        try:
            self._cipher.decrypt_into(_nonce(number, number == self._chunks - 1), sealed, self._header, out)
        except (InvalidTag, ValueError) as error:
            raise self._damaged(f"chunk {number + 1} of {self._chunks} is not what was written") from error

    def _refuse_other_key(self, key_id: bytes) -> None:
        found = self._header[len(_MAGIC) : len(_MAGIC) + ID_BYTES]
        if found != key_id:
            raise DatasetError(
                f"{self.path} was encrypted with the data key {found.hex()}, but the key beside it is {key_id.hex()}. "
                f"The file is from another dataset: remove it, and start the run again."
            )

    def _damaged(self, how: str) -> DatasetError:
        return DatasetError(
            f"{self.path} is encrypted, and damaged: {how}. Remove the folder of its dataset and start the run again, which "
            f"writes it anew."
        )
