"""Which rows say nearly the same: MinHash finds candidates, exact shares of words and word pairs decide.

What many rows hold is left out first: rows with one preamble and different tasks are no duplicates. Measured on tool-use rows:
without that, two thirds of what was flagged had unlike answers.

Every pass reads and writes files, a shard or one range of keys at a time, so that memory does not grow with the rows but for
12 bytes for each that resembles another; what is done is not done again after a kill.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.data.near.candidates import band_pieces, join_band, sift
from tasks.data.near.place import Piece, Place, save
from tasks.data.near.resolve import resolve
from tasks.data.near.sketches import count_suspects, frequent, make_sets, sign, suspects
from tasks.data.near.verify import send, verify
from tasks.data.running import Facts, Run, Told, each, in_turn, silent
from tasks.encryption import vault
from tasks.storage import sha256_file

ALGORITHM = "words and pairs, 128 slots, 2"  # what decides the result beside texts and threshold


@dataclass(frozen=True)
class Alike:
    """What was found: `path` holds row, duplicate_of (or null) and group (or null), sorted by row.

    A row that repeats an earlier kept row has duplicate_of; a kept row that resembles others has group, the first of them. Rows
    with neither are not in the file.
    """

    path: Path
    rows: int
    duplicates: int
    grouped: int
    groups: int


def find_alike(shards: Sequence[Path], folder: Path, threshold: float, run: Run = in_turn, progress: Told = silent) -> Alike:
    """Rows that repeat an earlier kept row, and groups of kept rows that belong together.

    A row repeats another where both have 30 words or more and share `threshold` of their words and pairs of neighbouring words
    (of the rare ones, and of all) and nearly three quarters of the words of their answers; and where nothing but case and
    blanks differs. Rows that share seven tenths of what is rare in them belong together.

    Args:
        shards: Parquet files with row (ascending over all), whole and answer.
        folder: what is found lies there, and what a killed search had done.
        threshold: Jaccard share, above 0 to 1.
        run: in one process or in several; the result is the same.
        progress: told the pieces of work done and all of them.
    """
    sizes = tuple(_rows_of(path) for path in shards)
    shas = list(run(sha256_file, list(shards)))
    key = hashlib.sha256(json.dumps([ALGORITHM, threshold, sizes, shas]).encode()).hexdigest()[:16]
    place = Place(folder / key, threshold, sizes)
    for other in folder.glob("*"):
        if other != place.folder and other.is_dir():
            shutil.rmtree(other)
    search = _Search(place, shards, run, progress)
    last = Piece(place, "alike", 0)
    (found,) = each(in_turn, search.all, [last], search.done)
    _remove(place, "sets", "suspects", "counts", "frequent", "pairs", "sent", "verified")
    return Alike(path=last.outputs[0], rows=place.rows, **found)


class _Search:
    """The passes in their order; what is frequent and what shares a key is known only after all shards were seen."""

    def __init__(self, place: Place, shards: Sequence[Path], run: Run, progress: Told) -> None:
        self.place, self.shards, self.run, self.progress = place, shards, run, progress
        self.done = place.folder / "done"
        self.bands = band_pieces(place)
        self.pieces = 6 * place.shards + len(self.bands)

    def all(self, piece: Piece) -> Facts:
        """Write what is found."""
        place = self.place
        self._work(0, make_sets, [Piece(place, "sets", number, source) for number, source in enumerate(self.shards)])
        save(place.file("suspects"), hashes=suspects(place))
        self._work(place.shards, count_suspects, self._every("counts"))
        save(place.file("frequent"), hashes=frequent(place))
        each(in_turn, self._candidates, [Piece(place, "candidates", 0)], self.done)
        _remove(place, "signatures", "keys", "bands")
        self._work(self.pieces - 2 * place.shards, send, self._every("sent"))
        self._work(self.pieces - place.shards, verify, self._every("verified"))
        return resolve(piece)

    def _candidates(self, _: Piece) -> Facts:
        """Write the pairs that may be alike."""
        before = 2 * self.place.shards
        self._work(before, sign, self._every("signatures"))
        self._work(before + self.place.shards, join_band, self.bands)
        self._work(self.pieces - 3 * self.place.shards, sift, self._every("pairs"))
        return {}

    def _every(self, kind: str) -> list[Piece]:
        return [Piece(self.place, kind, number) for number in range(self.place.shards)]

    def _work(self, before: int, function: Callable[[Piece], Facts], pieces: Sequence[Piece]) -> None:
        def tell(done: int, _: int) -> None:
            self.progress(before + done, self.pieces)

        each(self.run, function, pieces, self.done, tell)


def _remove(place: Place, *kinds: str) -> None:
    for kind in kinds:
        shutil.rmtree(place.folder / kind, ignore_errors=True)


def _rows_of(shard: Path) -> int:
    import pyarrow.parquet as pq

    with pq.ParquetFile(vault.source(shard)) as file:
        return int(file.metadata.num_rows)
