"""What is asked of a model and what came of it, item by item: every number of a report follows from this."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.contracts import ModelRole
from tasks.encryption import vault

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

ITEMS_FILE = "items.parquet"
SPEED_FILE = "speed.json"
_BATCH = 2_000  # rows that are looked through at once
Progress = Callable[[int], None]  # told how many more items are done


@dataclass(frozen=True)
class Item:
    """One row of a tokenized test split; `number` is its position in the file."""

    number: int
    row: int
    group: str
    input_ids: Sequence[int]
    supervised: Sequence[int]
    prompt: str
    reference: str


@dataclass(frozen=True)
class Result:
    """What one model made of one item: one row of items.parquet.

    `loss` is nats per supervised token (None: no token is supervised). The fields from `exact_match` on are None or ""
    where no answer was generated; `finished` says that the answer ended by itself, `cut` how many tokens of the prompt
    did not fit.
    """

    role: ModelRole
    benchmark: str
    item: int
    row: int
    group: str
    loss: float | None
    tokens: int
    exact_match: bool | None = None
    answer: str | None = None
    finished: bool | None = None
    cut: int = 0
    prompt: str = ""
    reference: str = ""


def read_test(path: Path, most: int, seed: int) -> list[Item]:
    """The first `most` rows (0: all) of a seeded permutation of a tokenized split: the same for every model.

    `path` is the split's folder of shards, or one Parquet file.
    """
    import numpy as np
    import pyarrow.parquet as pq

    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    order = np.random.default_rng(seed).permutation(sum(pq.read_metadata(vault.source(file)).num_rows for file in files))
    chosen = order[:most] if most else order
    names = [field.name for field in fields(Item) if field.name != "number"]
    table = _taken(files, np.sort(chosen), names)
    columns = {name: table.column(name).take(np.argsort(np.argsort(chosen))).to_pylist() for name in names}
    return [Item(number=int(number), **{name: columns[name][at] for name in names}) for at, number in enumerate(chosen)]


def _taken(files: Sequence[Path], places: "NDArray[np.int64]", names: Sequence[str]) -> "pa.Table":
    """The rows at ascending places over all files; no others are held."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found, first = [], 0
    for path in files:
        with pq.ParquetFile(vault.source(path)) as file:
            found.append(file.schema_arrow.empty_table().select(names))
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                here = places[(places >= first) & (places < first + len(batch))] - first
                found.append(pa.Table.from_batches([batch]).take(pa.array(here)).select(names))
                first += len(batch)
    return pa.concat_tables(found)


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write items.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole, flag = pa.string(), pa.int64(), pa.bool_()
    types = [text, text, whole, whole, text, pa.float64(), whole, flag, text, flag, whole, text, text]
    schema = pa.schema(list(zip([field.name for field in fields(Result)], types, strict=True)))
    with vault.writing(path) as file:
        pq.write_table(pa.Table.from_pylist([asdict(result) for result in results], schema=schema), file)


def read_results(path: Path) -> list[Result]:
    """Read items.parquet."""
    import pyarrow.parquet as pq

    return [Result(**row) for row in pq.ParquetFile(vault.source(path)).read().to_pylist()]
