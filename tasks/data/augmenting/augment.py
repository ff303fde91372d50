"""More training rows where there are few: children of rows, which are learned as their parents are and never held out."""

import math
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.contracts import Count, DatasetSplits, Shard, SplitPart, digest_of
from tasks.data.augmenting.children import AskJob, ChildJob, make_children, ranks, write_asked
from tasks.data.cleaning import content_keys
from tasks.data.grams import grams_of
from tasks.data.keys import pairs_of, repeats, write_keys
from tasks.data.running import After, Facts, Run, Told, each, in_turn, silent
from tasks.data.shards import Turns, digest, read_shard, shard_name, shard_paths, write_shard
from tasks.data.spec import AugmentationSpec
from tasks.encryption import arrays

Rewrite = Callable[[Path, Path], None]  # a folder of texts, and one for their paraphrases


@dataclass(frozen=True)
class KeyJob:
    """What the rows of a shard say, as keys.

    Args:
        name: its own among all jobs.
        path: the shard.
        held_out: whether its runs of words are needed, since it is not learned.
        work: folder for what is found.
    """

    name: str
    path: Path
    held_out: bool
    work: Path

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The keys and the runs of words."""
        return self.keys, self.grams

    @property
    def keys(self) -> Path:
        """The keys of the contents."""
        return self.work / "keys" / f"{self.name}.npy"

    @property
    def grams(self) -> Path:
        """The different runs of words; none of training rows."""
        return self.work / "grams" / f"{self.name}.npy"


@dataclass(frozen=True)
class JoinJob(After[ChildJob]):
    """A training shard as it will be, and that of its children.

    Args:
        of: the shard and its children.
        out: folder of the training shards.
        beside: name of the shard of the children.
    """

    out: Path
    beside: str

    @property
    def outputs(self) -> list[Path]:
        """The rows, and the children where there are any."""
        return [path for path in (self.out / self.name, self.out / self.beside) if path.exists()]


def augment(
    splits: DatasetSplits,
    spec: AugmentationSpec,
    files: Mapping[str, Path],
    out: Path,
    uri: str,
    seed: int,
    rewrite: Rewrite | None = None,
    run: Run = in_turn,
    progress: Told = silent,
) -> DatasetSplits:
    """The same splits with more training rows, where `spec` asks for more than there are.

    Args:
        splits: what is to be learned from and held out.
        spec: how many rows, and how they are made.
        files: split name -> the folder of its shards.
        out: folder to write train/ to; what an earlier process finished there is not done again.
        uri: where `out` will lie.
        seed: of the edits.
        rewrite: writes paraphrases; needed where `spec` names a model.
        run: in one process or in several.
        progress: told shards done and shards in all.
    """
    wanted, why = wanted_rows(splits, spec)
    if not wanted:
        return splits.model_copy(update={"reasons": (*splits.reasons, why)})
    work = out / "work"
    keys = [
        KeyJob(f"{name}-{path.name}", path, name != "train", work)
        for name, folder in files.items()
        for path in shard_paths(folder)
    ]
    each(run, write_content_keys, keys, work / "key-marks")
    arrays.save(work / "held.npy", np.unique(np.concatenate([arrays.load(job.grams) for job in keys])))
    base, rounds = _plan(keys, wanted, seed, work)
    jobs = [
        ChildJob(
            path.name, path, work, base, rounds, seed, tuple(spec.operations), bool(spec.paraphrase), spec.paraphrase_low,
            spec.paraphrase_high,
        )
        for path in shard_paths(files["train"])
    ]  # fmt: skip
    if spec.paraphrase:
        assert rewrite is not None
        each(run, write_asked, [AskJob(job) for job in jobs], work / "ask-marks")
        rewrite(work / "asked", work / "rewritten")
    made = each(run, make_children, jobs, work / "child-marks", progress)
    equal = repeats([*(job.keys for job in keys), *(job.keys for job in jobs)])
    arrays.save(work / "equal.npy", equal[equal[:, 0] >= base])
    after = 1 + max(int(job.name.split("-")[1]) for job in jobs)
    joins = [JoinJob(job, out / "train", shard_name(after, number)) for number, job in enumerate(jobs)]
    found = each(run, join_shard, joins, work / "join-marks")
    value = _value(splits, made, joins, found, uri, why)
    shutil.rmtree(work)
    return value


def wanted_rows(splits: DatasetSplits, spec: AugmentationSpec) -> tuple[int, str]:
    """How many rows are to be made at most, and the sentence that says why."""
    rows = splits.train.rows - splits.repeated
    if splits.task == "text":
        return 0, "no rows were made from others: a plain text has no side that is asked and not learned"
    if splits.train.rows >= spec.minimum_rows:
        return 0, (
            f"no rows were made from others: there are {splits.train.rows} to train on, and data.augmentation.minimum_rows is "
            f"{spec.minimum_rows}"
        )
    limits = {
        f"data.augmentation.minimum_rows is {spec.minimum_rows}": spec.minimum_rows - splits.train.rows,
        f"data.augmentation.per_row is {spec.per_row}": spec.per_row * rows,
        f"data.augmentation.share is {spec.share:g}": math.floor(splits.train.rows * spec.share / (1 - spec.share) + 1e-9),
    }
    reason = min(limits, key=lambda name: limits[name])
    return limits[reason], (
        f"there were {splits.train.rows} rows to train on, so {limits[reason]} more were to be made from them: {reason}"
    )


def _plan(keys: Sequence[KeyJob], wanted: int, seed: int, work: Path) -> tuple[int, int]:
    """A number above that of every row, and how many children each row gets; work/more.npy names those that get one more."""
    numbers = [arrays.load(job.keys) for job in keys]
    base = 1 + max(int(some["row"].max(initial=0)) for some in numbers)
    train = np.concatenate([some for some, job in zip(numbers, keys, strict=True) if not job.held_out])
    rows, firsts = np.unique(train["row"], return_index=True)
    contents = [record.tobytes()[:16] for record in train[firsts]]
    rounds, more = divmod(wanted, len(rows))
    order = np.lexsort((rows, ranks(contents, seed)))
    arrays.save(work / "more.npy", np.sort(rows[order[:more]]))
    return base, rounds


def write_content_keys(job: KeyJob) -> Facts:
    """Write the keys of what the rows of a shard say, and the runs of words of held-out rows."""
    table = read_shard(job.path)
    turns = Turns.of(table)
    write_keys(job.keys, content_keys(turns), table.column("row").to_numpy())
    arrays.save(job.grams, np.unique(grams_of(turns)[0]) if job.held_out else np.zeros(0, dtype=np.uint64))
    return {"rows": turns.count}


def join_shard(job: JoinJob) -> Facts:
    """Write a training shard with the columns of its children, and beside it the children that repeat nothing."""
    import pyarrow as pa

    rows, children = read_shard(job.of.path), read_shard(job.of.children)
    rows = rows.append_column("parent", pa.nulls(len(rows), pa.int64()))
    rows = rows.append_column("operation", pa.nulls(len(rows), pa.string()))
    numbers = children.column("row").to_numpy()
    repeated = np.isin(numbers, pairs_of(job.of.work / "equal.npy", numbers)[:, 0])
    kept = children.filter(pa.array(~repeated)).select(rows.column_names)
    write_shard(job.out / job.name, rows)
    (job.out / job.beside).unlink(missing_ok=True)
    if len(kept):
        write_shard(job.out / job.beside, kept)
    return {
        "rows": [len(rows), len(kept)],
        "sha256": [digest(table.drop_columns(["file"])) for table in (rows, kept)],
        "repeated": int(repeated.sum()),
        "by": dict(Counter(kept.column("operation").to_pylist())),
    }


def _value(
    splits: DatasetSplits, made: Sequence[Facts], joins: Sequence[JoinJob], found: Sequence[Facts], uri: str, why: str
) -> DatasetSplits:
    names = [(job.name, job.beside) for job in joins]
    shards = [
        Shard(name=pair[which], rows=facts["rows"][which], sha256=facts["sha256"][which])
        for which in (0, 1)
        for pair, facts in zip(names, found, strict=True)
        if facts["rows"][which]
    ]
    sha256, rows = digest_of([shard.sha256 for shard in shards]), sum(shard.rows for shard in shards)
    train = SplitPart(uri=f"{uri}/train", sha256=sha256, rows=rows, shards=tuple(shards))
    not_taken, by = Counter[str](), Counter[str]()
    for facts in made:
        not_taken.update(facts["not_taken"])
    for facts in found:
        by.update(facts["by"])
    not_taken["exact_duplicate"] += sum(facts["repeated"] for facts in found)
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(by.items()))
    return splits.model_copy(
        update={
            "sha256": digest_of([splits.task, train.sha256, splits.validation.sha256, splits.test.sha256]),
            "train": train,
            "synthetic": by.total(),
            "not_taken": tuple(Count(reason=name, rows=count) for name, count in sorted(not_taken.items()) if count),
            "reasons": (*splits.reasons, f"{why}; {by.total()} were added" + (f" ({kinds})" if kinds else "")),
        }
    )
