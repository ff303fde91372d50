"""Rows to look at: some of each reason from the quarantine, and the training rows that are worth seeing token by token."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice, zip_longest
from pathlib import Path
from typing import Any

from tasks.encryption import vault

MOST = 20
MOST_TOKENS = 50_000
_BATCH = 2_000
_PIECES = 50  # sequences of one row among the first ones that are looked through


def dropped_examples(folders: Sequence[Path], most: int = MOST) -> list[dict[str, Any]]:
    """The first dropped rows of each reason, about as many of each, in the order of their numbers.

    Args:
        folders: of shards with a column reason.
        most: rows in all.
    """
    import pyarrow.parquet as pq

    places: dict[str, list[tuple[Path, int]]] = {}
    for path, at, reason in _reasons(folders):
        if len(found := places.setdefault(reason, [])) < most:
            found.append((path, at))
    in_turn = chain.from_iterable(zip_longest(*places.values()))
    chosen = list(islice((place for place in in_turn if place), most))
    rows: list[dict[str, Any]] = []
    for path in dict.fromkeys(path for path, _ in chosen):
        table = pq.read_table(vault.source(path))
        rows += table.take([at for one, at in chosen if one == path]).to_pylist()
    return sorted(rows, key=lambda row: int(row["row"]))


def _reasons(folders: Sequence[Path]) -> Iterator[tuple[Path, int, str]]:
    """Each dropped row's file, place in it and reason."""
    import pyarrow.parquet as pq

    for path in (path for folder in folders for path in sorted(folder.glob("part-*.parquet"))):
        for at, reason in enumerate(pq.read_table(vault.source(path), columns=["reason"]).column("reason").to_pylist()):
            yield path, at, str(reason)


def rows_to_show(shard: Path, cut: int, most: int = MOST, most_tokens: int = MOST_TOKENS) -> list[int]:
    """Numbers of rows of a shard of sequences: the longest ones where rows were cut, then the first ones.

    Args:
        shard: sequences with the columns row and input_ids.
        cut: how many rows of the split lost tokens; they are found among the longest, and take half of the places at most.
        most: rows in all.
        most_tokens: in all sequences of the shown rows, so that a browser opens the page; one row is shown in any case.
    """
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    numbers, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in pq.ParquetFile(vault.source(shard)).iter_batches(batch_size=_BATCH, columns=["row", "input_ids"]):
        numbers.append(batch.column("row").to_numpy())
        lengths.append(pc.list_value_length(batch.column("input_ids")).to_numpy(zero_copy_only=False).astype(np.int64))
    rows, tokens = np.concatenate(numbers), np.concatenate(lengths)
    longest = rows[np.argsort(-tokens, kind="stable")[: min(cut, most // 2)]]
    wanted = list(islice(dict.fromkeys([*longest.tolist(), *rows[: _PIECES * most].tolist()]), most))
    sums = accumulate(int(tokens[rows == row].sum()) for row in wanted)
    return [row for number, (row, total) in enumerate(zip(wanted, sums, strict=True)) if not number or total <= most_tokens]
