"""What encrypting data at rest costs: in clear, sealed by tasks/encryption, by Parquet's own encryption and by Fernet.

    .venv/bin/python benchmarks/encryption.py [--mib 128] [--repeats 5]

Bytes: a file of random bytes, written and read whole. Shard: 50,000 rows of about 480 characters, written as `write_shard` does
and read as `read_shard` does; MB are those of the texts. Picked: single sequences of 200 tokens at random places of a file of
tokens, as training reads them. Of the repeats the best counts. Prints a Markdown table.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

MB = 1e6
FERNET_SHARE = 16  # Fernet holds all in memory, several times: it gets a part of the bytes
PICKED, TOKENS = 20_000, 200


def best(work: Callable[[], object], size: float, repeats: int) -> float:
    """MB per CPU second."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return size / MB / min(found)


def shard() -> tuple[Any, int]:
    """Rows of words that occur as unevenly as in a language, and the bytes of their texts."""
    import pyarrow as pa

    random = Random(0)  # noqa: S311
    words = ["".join(random.choices("etaoinshrdlu", k=random.randrange(2, 10))) for _ in range(20_000)]
    frequent = list(accumulate(1 / place for place in range(1, len(words) + 1)))
    texts = [" ".join(random.choices(words, cum_weights=frequent, k=70)) for _ in range(50_000)]
    return pa.table({"row": pa.array(range(len(texts)), pa.int64()), "text": texts}), sum(map(len, texts))


def of_bytes(folder: Path, content: bytes, repeats: int) -> tuple[float, float]:
    """Writing and reading a file of bytes."""
    from tasks.encryption import vault

    path = folder / "bytes"
    written = best(lambda: vault.write(path, content), len(content), repeats)
    return written, best(lambda: vault.read(path), len(content), repeats)


def of_shards(folder: Path, table: Any, size: int, repeats: int) -> tuple[float, float]:
    """Writing and reading a shard."""
    from tasks.data.shards import read_shard, write_shard

    path = folder / "part-0.parquet"
    return best(lambda: write_shard(path, table), size, repeats), best(lambda: read_shard(path), size, repeats)


def of_parquet(folder: Path, table: Any, size: int, repeats: int) -> tuple[float, float]:
    """Writing and reading a shard by Parquet's own encryption."""
    import pyarrow.parquet as pq
    import pyarrow.parquet.encryption as pe

    path, key = folder / "own.parquet", os.urandom(32)
    sealing = pe.create_encryption_properties(key)
    opening = pe.create_decryption_properties(key)
    write = lambda: pq.write_table(  # noqa: E731
        table, path, compression="zstd", compression_level=1, encryption_properties=sealing
    )
    read = lambda: pq.ParquetFile(path, decryption_properties=opening).read()  # noqa: E731
    return best(write, size, repeats), best(read, size, repeats)


def of_picks(folder: Path, repeats: int) -> float:
    """Reading single sequences, MB per CPU second."""
    import numpy as np

    from tasks.encryption import arrays, vault

    vault.write(folder / "tokens", np.arange(16 << 20, dtype="<i4").tobytes())
    found = arrays.flat(folder / "tokens", "<i4")
    places = np.random.default_rng(0).integers(0, len(found) - TOKENS, PICKED).tolist()
    return best(lambda: [found[at : at + TOKENS] + 0 for at in places], 4 * TOKENS * PICKED, repeats)


def of_fernet(content: bytes, repeats: int) -> tuple[float, float]:
    """Encrypting and decrypting in memory, without any file."""
    from cryptography.fernet import Fernet

    cipher, part = Fernet(Fernet.generate_key()), content[: len(content) // FERNET_SHARE]
    token = cipher.encrypt(part)
    encrypted = best(lambda: cipher.encrypt(part), len(part), repeats)
    return encrypted, best(lambda: cipher.decrypt(token), len(part), repeats)


def lines(folder: Path, mib: int, repeats: int) -> Iterator[tuple[str, str, float | None, float]]:
    """What, how, and MB per CPU second written and read."""
    from tasks.encryption import vault
    from tasks.encryption.keys import MasterKey

    content = os.urandom(mib << 20)
    table, size = shard()
    for how, master in (("in clear", None), ("sealed", MasterKey(os.urandom(32)))):
        place = folder / how
        place.mkdir()
        with vault.unlocked(master):
            vault.begin(place)
            yield "bytes", how, *of_bytes(place, content, repeats)
            yield "shard", how, *of_shards(place, table, size, repeats)
            yield "picked sequences", how, None, of_picks(place, repeats)
    yield "shard", "Parquet's own encryption", *of_parquet(folder, table, size, repeats)
    yield "bytes", "Fernet, in memory", *of_fernet(content, repeats)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print("| what | how | written, MB per CPU second | read, MB per CPU second |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for what, how, written, read in lines(Path(folder), options.mib, options.repeats):
            print(f"| {what} | {how} | {'' if written is None else f'{written:,.0f}'} | {read:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
