"""Of each row its set of words and word pairs, and a MinHash signature of what is rare in it."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.data.near.place import LOW, Piece, Place, load, save, save_plain
from tasks.data.shingles import Sets, contained, join, mixed, words_of
from tasks.encryption import vault

OFTEN, OFTEN_SHARE = 100, 0.002  # what more rows hold than both of these says nothing about any of them
NO_KEY = np.uint32(0xFFFFFFFF)
_READ_ROWS = 8_192
_HASHED = 1 << 14  # hashes at once: what fits a processor's first cache
_SLOTS = 128
_WIDTHS = {3: 0.4, 2: 0.0}  # rows a band -> the lowest similarity at which 94 % of the pairs and more are found
_SEED = 0x7475_6E65_666C_6F77


def limit(rows: int) -> float:
    """In how many of so many rows a hash may occur and still be rare."""
    return max(OFTEN, OFTEN_SHARE * rows)


def width_for(similarity: float) -> int:
    """How many slots of the signature make a band: pairs agree in one of b bands of r with 1 - (1 - s**r)**b."""
    return next(width for width, least in _WIDTHS.items() if similarity >= least)


def bands_for(width: int) -> int:
    """How many bands there are, and after them one of equal sets."""
    return _SLOTS // width


def make_sets(piece: Piece) -> dict[str, int]:
    """Write the sets of a shard, and which hashes could be frequent in all rows, seen from here."""
    import pyarrow.parquet as pq

    assert piece.source is not None
    rows, counts, wholes, answers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], list[Sets](), list[Sets]()
    with pq.ParquetFile(vault.source(piece.source)) as file:
        for batch in file.iter_batches(_READ_ROWS, columns=["row", "whole", "answer"]):
            words = words_of(pl.Series(batch.column("whole")))
            rows.append(batch.column("row").to_numpy())
            counts.append(words.counts())
            wholes.append(words.sets_with_pairs())
            answers.append(words_of(pl.Series(batch.column("answer"))).sets())
    whole, answer = join(wholes), join(answers)
    hashes, times = np.unique(whole.flat, return_counts=True)
    # What is frequent in all rows is so in at least one shard.
    share = limit(piece.place.rows) / max(piece.place.rows, 1)
    save(
        piece.outputs[0],
        rows=np.concatenate(rows), words=np.concatenate(counts), flat=whole.flat, starts=whole.starts,
        answer_flat=answer.flat, answer_starts=answer.starts, often=hashes[times > share * len(whole)],
    )  # fmt: skip
    return {"rows": len(whole)}


def suspects(place: Place) -> NDArray[np.uint32]:
    """The hashes that are frequent in at least one shard, sorted."""
    found = np.zeros(0, dtype=np.uint32)
    for number in range(place.shards):
        found = np.union1d(found, load(place.file("sets", number), "often")["often"]).astype(np.uint32)
    return found


def count_suspects(piece: Piece) -> dict[str, int]:
    """Write in how many rows of a shard each suspect occurs."""
    some = load(piece.place.file("suspects"))["hashes"]
    flat = load(piece.place.file("sets", piece.number), "flat")["flat"]
    found = flat[contained(flat, some)]
    save(piece.outputs[0], counts=np.bincount(np.searchsorted(some, found), minlength=len(some)))
    return {"found": len(found)}


def frequent(place: Place) -> NDArray[np.uint32]:
    """The hashes that more rows hold than may, sorted."""
    some = load(place.file("suspects"))["hashes"]
    total = np.zeros(len(some), dtype=np.int64)
    for number in range(place.shards):
        total += load(place.file("counts", number))["counts"]
    return np.asarray(some[total > limit(place.rows)], dtype=np.uint32)


def sign(piece: Piece) -> dict[str, int]:
    """Write the signature of each row of a shard, and its key in each band."""
    arrays = load(piece.place.file("sets", piece.number))
    whole = Sets(arrays["flat"], arrays["starts"])
    common = load(piece.place.file("frequent"))["hashes"]
    rare = whole.where(~contained(whole.flat, common))
    signature = minhash(rare)
    width = width_for(piece.place.threshold)
    keys = [_band_key(signature[:, band * width : (band + 1) * width]) for band in range(bands_for(width))]
    keys = [np.where(rare.sizes() > 0, key, NO_KEY) for key in keys]  # a row without anything rare resembles nothing
    keys.append(np.where(whole.sizes() > 0, _equal_key(whole), NO_KEY))
    signatures, places = piece.outputs
    save_plain(signatures, signature.astype(np.uint8))
    save_plain(places, np.stack(keys).astype(np.uint32))
    return {"rows": len(whole)}


def minhash(sets: Sets) -> NDArray[np.uint32]:
    """For each row and slot the least value that the slot's hash function gives to the row's set: (rows, slots)."""
    signature = np.full((len(sets), _SLOTS), NO_KEY, dtype=np.uint32)
    filled = np.flatnonzero(sets.sizes() > 0)
    starts = sets.starts[filled]
    first = 0
    while first < len(filled):
        last = max(int(np.searchsorted(starts, starts[first] + _HASHED)), first + 1)
        end = sets.starts[filled[last - 1] + 1]
        _sign_some(sets.flat[starts[first] : end], starts[first:last] - starts[first], filled[first:last], signature)
        first = last
    return signature


def _sign_some(
    flat: NDArray[np.uint32], starts: NDArray[np.int64], rows: NDArray[np.int64], signature: NDArray[np.uint32]
) -> None:
    values = np.empty_like(flat)
    for slot, (factor, mask) in enumerate(_FUNCTIONS):
        np.bitwise_xor(flat, mask, out=values)
        np.multiply(values, factor, out=values)
        signature[rows, slot] = np.minimum.reduceat(values, starts)


def _functions() -> list[tuple[np.uint32, np.uint32]]:
    """An odd factor and a mask a slot: x -> (x ^ mask) * factor modulo 2**32 is a permutation."""
    drawn = mixed(np.arange(1, 2 * _SLOTS + 1, dtype=np.uint64) * np.uint64(_SEED | 1))
    factors, masks = (drawn[:_SLOTS] & LOW) | np.uint64(1), drawn[_SLOTS:] & LOW
    return [(np.uint32(factor), np.uint32(mask)) for factor, mask in zip(factors, masks, strict=True)]


_FUNCTIONS = _functions()


def _band_key(slots: NDArray[np.uint32]) -> NDArray[np.uint32]:
    key = np.zeros(len(slots), dtype=np.uint64)
    for slot in range(slots.shape[1]):
        key = mixed(key + slots[:, slot])
    return _usable(key)


def _equal_key(sets: Sets) -> NDArray[np.uint32]:
    """The same for equal sets."""
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed(sets.flat.astype(np.uint64)), dtype=np.uint64)])
    return _usable(mixed(sums[sets.starts[1:]] - sums[sets.starts[:-1]]))


def _usable(keys: NDArray[np.uint64]) -> NDArray[np.uint32]:
    return np.asarray(np.minimum(keys >> np.uint64(32), np.uint64(NO_KEY) - np.uint64(1)), dtype=np.uint32)
