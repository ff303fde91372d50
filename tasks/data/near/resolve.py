"""Which rows go and which stay together, from pairs of rows that are alike, in the order of the rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasks.data.near.place import HALF, LOW, Piece, Place, load
from tasks.data.shards import write_shard

_LEAST_GROUP, _GROUP_SHARE = 10, 100  # a group that holds a hundredth of all rows grows no further


def resolve(piece: Piece) -> dict[str, int]:
    """Write alike.parquet: each row that repeats an earlier kept one, and each kept row that belongs with others."""
    import pyarrow as pa

    place = piece.place
    first_of, groups = np.zeros(place.rows, dtype=np.uint32), _Groups(place.rows)
    for pairs, same in _verified(place):
        _mark_duplicates(pairs[same], first_of)
        kept = (first_of[pairs >> HALF] == 0) & (first_of[pairs & LOW] == 0)
        for pair in pairs[kept].tolist():
            groups.join(pair & 0xFFFFFFFF, pair >> 32)
    repeats = np.flatnonzero(first_of)
    members, leaders = groups.members()
    positions = np.concatenate([repeats, members])
    order = np.argsort(positions, kind="stable")
    no = np.full(len(positions), fill_value=True)
    no[: len(repeats)] = False
    repeated = _rows(place, np.concatenate([first_of[repeats].astype(np.int64) - 1, members]))
    group = _rows(place, np.concatenate([repeats, leaders]))
    columns = {
        "row": pa.array(_rows(place, positions)[order]),
        "duplicate_of": pa.array(repeated[order], mask=no[order]),
        "group": pa.array(group[order], mask=~no[order]),
    }
    write_shard(piece.outputs[0], pa.table(columns))
    return {"duplicates": len(repeats), "grouped": len(members), "groups": len(np.unique(leaders))}


def _verified(place: Place) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.bool_]]]:
    for number in range(place.shards):
        arrays = load(place.file("verified", number))
        yield arrays["pairs"], arrays["same"]


def _mark_duplicates(pairs: NDArray[np.uint64], first_of: NDArray[np.uint32]) -> None:
    """Note for each later row the first kept row that it repeats, counted from 1."""
    known = first_of.data
    for pair in pairs.tolist():
        later, earlier = pair >> 32, pair & 0xFFFFFFFF
        if not known[later] and not known[earlier]:
            known[later] = earlier + 1


def _rows(place: Place, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row numbers at some positions."""
    found = np.zeros(len(positions), dtype=np.int64)
    shard = np.searchsorted(place.firsts, positions, side="right") - 1
    order = np.argsort(shard, kind="stable")
    bounds = np.searchsorted(shard[order], np.arange(place.shards + 1))
    for number in np.flatnonzero(np.diff(bounds)).tolist():
        some = order[bounds[number] : bounds[number + 1]]
        rows = load(place.file("sets", number), "rows")["rows"]
        found[some] = rows[positions[some] - place.firsts[number]]
    return found


class _Groups:
    """Disjoint sets of positions, each led by its first; 8 bytes a row that has company."""

    def __init__(self, rows: int) -> None:
        self._up = np.zeros(rows, dtype=np.uint32)  # how far up the parent is
        self._more = np.zeros(rows, dtype=np.uint32)  # of a leader: members beside it
        self._parent, self._others = self._up.data, self._more.data
        self._largest = max(_LEAST_GROUP, rows // _GROUP_SHARE)

    def leader(self, row: int) -> int:
        parent = self._parent
        while parent[row]:
            parent[row] += parent[row - parent[row]]  # to the grandparent, where there is one
            row -= parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.leader(one), self.leader(other)))
        together = self._others[first] + self._others[second] + 2
        if first != second and together <= self._largest:
            self._parent[second] = second - first
            self._others[first] = together - 1

    def members(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every row that has company, and the leader of each."""
        leading = np.flatnonzero((self._up == 0) & (self._more > 0))
        led = np.flatnonzero(self._up)
        rows = np.sort(np.concatenate([leading, led]))
        leaders = rows - self._up[rows]
        while len(far := np.flatnonzero(self._up[leaders])):
            leaders[far] -= self._up[leaders[far]]
        return rows, leaders
