"""What is asked of a model and what came of it, item by item: every number of a report follows from this."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tasks.contracts import ModelRole

ITEMS_FILE = "items.parquet"
SPEED_FILE = "speed.json"
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
    import pyarrow as pa
    import pyarrow.dataset as ds

    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    data = ds.dataset([str(file) for file in files], format="parquet")
    order = np.random.default_rng(seed).permutation(data.count_rows())
    chosen = order[:most] if most else order
    names = [field.name for field in fields(Item) if field.name != "number"]
    table = data.take(pa.array(np.sort(chosen)), columns=names)  # only these rows are held
    columns = {name: table.column(name).take(np.argsort(np.argsort(chosen))).to_pylist() for name in names}
    return [Item(number=int(number), **{name: columns[name][at] for name in names}) for at, number in enumerate(chosen)]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write items.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole, flag = pa.string(), pa.int64(), pa.bool_()
    types = [text, text, whole, whole, text, pa.float64(), whole, flag, text, flag, whole, text, text]
    schema = pa.schema(list(zip([field.name for field in fields(Result)], types, strict=True)))
    pq.write_table(pa.Table.from_pylist([asdict(result) for result in results], schema=schema), path)


def read_results(path: Path) -> list[Result]:
    """Read items.parquet."""
    import pyarrow.parquet as pq

    return [Result(**row) for row in pq.read_table(path).to_pylist()]
