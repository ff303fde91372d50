"""Pairs of rows that may be alike: they share the key of a band, and their signatures agree well enough.

One range of the keys of one band is in memory at a time.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.data.near.place import HALF, LOW, Piece, Place, blocks_of, load_block, mapped, save_blocks
from tasks.data.near.sketches import NO_KEY, bands_for, width_for

RELATED = 0.7  # of what is rare: kept rows this alike stay in one split; about half of their word triples
Pairs = NDArray[np.uint64]  # two positions a pair, one in each half
_FIRST, _LAST = 16, 16  # of the rows with the same key, those that a row is compared with
_SLACK = 0.15  # more than three standard errors of the estimate
_COMPARED = 1 << 12


def band_pieces(place: Place) -> list[Piece]:
    """Every range of keys of every band."""
    bands = bands_for(width_for(place.threshold)) + 1
    return [Piece(place, "bands", number) for number in range(bands * place.parts)]


def join_band(piece: Piece) -> dict[str, int]:
    """Write the pairs of rows with the same key: the later row in the upper half, sorted."""
    place = piece.place
    pairs = _neighbours(_entries(place, *divmod(piece.number, place.parts)))
    pairs.sort()
    bounds = np.searchsorted(pairs, place.firsts.astype(np.uint64) << HALF)
    save_blocks(piece.outputs[0], blocks_of(pairs, bounds), place.shards)
    return {"pairs": len(pairs)}


def _entries(place: Place, band: int, part: int) -> NDArray[np.uint64]:
    """Key and position of each row whose key is in the range, sorted."""
    least, most = ((number << 32) // place.parts for number in (part, part + 1))
    found = [np.zeros(0, dtype=np.uint64)]
    for number, first in enumerate(place.firsts[:-1].tolist()):
        keys = mapped(place.file("keys", number))[band]
        rows = np.flatnonzero((keys >= least) & (keys < most) & (keys != NO_KEY))
        found.append((keys[rows].astype(np.uint64) << HALF) | (rows + first).astype(np.uint64))
    entries = np.concatenate(found)
    entries.sort()
    return entries


def _neighbours(entries: NDArray[np.uint64]) -> Pairs:
    """Each row with the first and the nearest ones before it that have its key."""
    keys, rows = entries >> HALF, entries & LOW
    begins = np.ones(len(keys), dtype=np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    firsts = np.flatnonzero(begins)[np.cumsum(begins) - 1] if len(keys) else np.zeros(0, dtype=np.int64)
    place = np.arange(len(keys))
    found = [np.zeros(0, dtype=np.uint64)]
    shared = np.flatnonzero(place > firsts)
    for step in range(_FIRST):
        shared = shared[place[shared] > firsts[shared] + step]
        found.append((rows[shared] << HALF) | rows[firsts[shared] + step])
    for step in range(1, _LAST + 1):
        shared = shared[place[shared] - step >= firsts[shared] + _FIRST]
        found.append((rows[shared] << HALF) | rows[shared - step])
    return np.concatenate(found)


def sift(piece: Piece) -> dict[str, int]:
    """Write the pairs of a shard's rows with earlier ones that may be alike: the earlier row in the upper half, sorted."""
    place = piece.place
    found = [load_block(band.outputs[0], piece.number, np.uint64) for band in band_pieces(place)]
    pairs = np.unique(np.concatenate(found))
    pairs = np.sort((pairs << HALF) | (pairs >> HALF))
    bounds = np.searchsorted(pairs, place.firsts.astype(np.uint64) << HALF).astype(np.int64)
    likely = np.zeros(len(pairs), dtype=np.bool_)
    later = mapped(place.file("signatures", piece.number))
    for number in np.flatnonzero(np.diff(bounds)).tolist():
        some = slice(bounds[number], bounds[number + 1])
        rows = (pairs[some] & LOW).astype(np.int64) - place.firsts[piece.number]
        earlier = (pairs[some] >> HALF).astype(np.int64) - place.firsts[number]
        likely[some] = _likely(place, later, rows, mapped(place.file("signatures", number)), earlier)
    kept = np.concatenate([[0], np.cumsum(likely)])
    save_blocks(piece.outputs[0], blocks_of(pairs[likely], kept[bounds]), place.shards)
    return {"seen": len(pairs), "kept": int(likely.sum())}


def _likely(
    place: Place, one: NDArray[np.uint8], rows: NDArray[np.int64], other: NDArray[np.uint8], others: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the share of equal slots, which estimates the Jaccard share, is not far below what counts."""
    least = (min(place.threshold, RELATED) - _SLACK) * one.shape[1]
    found = np.zeros(len(rows), dtype=np.bool_)
    for first in range(0, len(rows), _COMPARED):
        some = slice(first, first + _COMPARED)
        found[some] = np.count_nonzero(one[rows[some]] == other[others[some]], axis=1) >= least
    return found
