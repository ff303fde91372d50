"""Which rows have the same key, over more rows than memory holds: key files are read in parts, one range of keys at a time."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.encryption import arrays

Pairs = NDArray[np.int64]  # (n, 2): a row and an earlier row
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
_BUDGET = 64 << 20  # bytes of records sorted at a time


def write_keys(path: Path, keys: Sequence[bytes], rows: NDArray[np.int64]) -> None:
    """Keep the keys (16 bytes each) of rows."""
    records = np.empty(len(keys), dtype=RECORD)
    flat = np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), 2)
    records["high"], records["low"], records["row"] = flat[:, 0], flat[:, 1], rows
    arrays.save(path, records)


def repeats(files: Sequence[Path], budget: int = _BUDGET) -> Pairs:
    """Every row whose key an earlier row has, with the first such row; sorted by row.

    Args:
        files: written by `write_keys`.
        budget: bytes of records that are in memory at a time.
    """
    found = [_repeats_of(records) for records in _ranges(files, budget)]
    pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *found])
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def distinct(files: Sequence[Path], budget: int = _BUDGET) -> tuple[int, int]:
    """How many keys there are, and how many rows share the most frequent one."""
    count = largest = 0
    for records in _ranges(files, budget):
        starts = np.flatnonzero(_begins(records))
        count += len(starts)
        if len(starts):
            largest = max(largest, int(np.diff(np.append(starts, len(records))).max()))
    return count, largest


def _repeats_of(records: NDArray[np.void]) -> Pairs:
    begins = _begins(records)
    first = records["row"][np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return np.stack([records["row"][~begins], first[~begins]], axis=1)


def _begins(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """Where another key begins, in sorted records."""
    begins = np.ones(len(records), dtype=np.bool_)
    begins[1:] = (records["high"][1:] != records["high"][:-1]) | (records["low"][1:] != records["low"][:-1])
    return begins


def _ranges(files: Sequence[Path], budget: int) -> Iterator[NDArray[np.void]]:
    """All records, sorted by key and row within a range of keys, range after range."""
    total = sum(path.stat().st_size for path in files)
    ranges = max(1, -(-total // budget))
    for number in range(ranges):
        chosen = []
        for path in files:
            records = arrays.load(path)
            chosen.append(records[records["high"] % np.uint64(ranges) == number])
        together = np.concatenate([np.empty(0, dtype=RECORD), *chosen])
        yield together[np.lexsort((together["row"], together["low"], together["high"]))]


def roots(edges: Pairs) -> Pairs:
    """Of each row that an edge connects with an earlier one, the first row of all that it is connected with; sorted by row.

    About 60 bytes an edge.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids, flat = np.unique(edges, return_inverse=True)
    ends = flat.reshape(edges.shape)
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(len(ids), len(ids)))
    _, component = connected_components(graph, directed=False)
    first = np.full(int(component.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, component, ids)
    pairs = np.stack([ids, first[component]], axis=1) if len(ids) else np.empty((0, 2), dtype=np.int64)
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]], dtype=np.int64)


def pairs_of(path: Path, rows: NDArray[np.int64]) -> Pairs:
    """Those of a file's pairs, sorted by row, that may concern `rows`, which ascend; no others are in memory."""
    pairs = arrays.opened(path)
    if not len(rows) or not len(pairs):
        return np.empty((0, 2), dtype=np.int64)
    first = bisect_left(range(len(pairs)), rows[0], key=lambda at: pairs[at][0])
    last = bisect_right(range(len(pairs)), rows[-1], key=lambda at: pairs[at][0])
    return np.asarray(pairs[first:last])


def looked_up(pairs: Pairs, rows: NDArray[np.int64], missing: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of `rows` its partner in pairs sorted by row, or what `missing` says."""
    if not len(pairs):
        return missing
    at = np.minimum(np.searchsorted(pairs[:, 0], rows), len(pairs) - 1)
    return np.asarray(np.where(pairs[at, 0] == rows, pairs[at, 1], missing), dtype=np.int64)
