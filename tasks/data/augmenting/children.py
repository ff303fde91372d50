"""Rows made from the training rows of a shard: which ones, by which edit, and why some are not taken."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.data.augmenting.draws import Draw
from tasks.data.augmenting.operations import OPERATIONS
from tasks.data.augmenting.paraphrase import judge
from tasks.data.cleaning import content_keys
from tasks.data.grams import grams_of
from tasks.data.keys import write_keys
from tasks.data.prose import CODE
from tasks.data.running import After, Facts
from tasks.data.shards import Turns, read_shard, write_shard
from tasks.data.shingles import mixed
from tasks.encryption import arrays

if TYPE_CHECKING:
    import pyarrow as pa

PARAPHRASE = "paraphrase"
_ODD = np.uint64(0x9E3779B97F4A7C15)
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ChildJob:
    """The children of a shard's rows.

    Args:
        name: of the shard's file.
        path: the training shard.
        work: folder for what is found.
        base: above the number of every row there is.
        rounds: children of each row; those that work/more.npy names have one more.
        seed: another seed is other edits.
        edits: names of operations.
        paraphrases: whether some children are paraphrases, which then lie in work/rewritten.
        low: paraphrases share at least this part of their words with the text.
        high: and at most this part.
    """

    name: str
    path: Path
    work: Path
    base: int
    rounds: int
    seed: int
    edits: tuple[str, ...]
    paraphrases: bool
    low: float
    high: float

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The children, and the keys of their contents."""
        return self.children, self.keys

    @property
    def children(self) -> Path:
        """The children: the columns of their parents, parent and operation."""
        return self.work / "children" / self.name

    @property
    def keys(self) -> Path:
        """The keys of what they say."""
        return self.work / "child-keys" / f"{self.name}.npy"

    @property
    def asked(self) -> Path:
        """The texts to be paraphrased: row, way, text."""
        return self.work / "asked" / self.name

    @property
    def rewritten(self) -> Path:
        """Their paraphrases: row, text, finished."""
        return self.work / "rewritten" / self.name

    @property
    def slots(self) -> tuple[str, ...]:
        """What a child may be made by, each as likely; with a model every other one is a paraphrase."""
        return (*self.edits, *([PARAPHRASE] * max(1, len(self.edits)) if self.paraphrases else []))


@dataclass(frozen=True)
class AskJob(After[ChildJob]):
    """The texts of a shard that are to be paraphrased."""

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The texts."""
        return (self.of.asked,)


@dataclass(frozen=True)
class Planned:
    """Children that are to be made: copies of their parents so far.

    Args:
        table: the parents, one for each child.
        turns: what is said in them.
        numbers: the children's own.
        ways: a number for how each is to be paraphrased, unlike that of the next child of the same parent.
        states: what the edits of each are drawn from.
        turn_ids: of each child, the messages that may be edited.
    """

    table: "pa.Table"
    turns: Turns
    numbers: Numbers
    ways: Numbers
    states: list[int]
    turn_ids: list[list[int]]


def planned(job: ChildJob) -> Planned:
    """The children of a shard, before anything is changed."""
    table = read_shard(job.path)
    _, firsts = np.unique(table.column("row").to_numpy(), return_index=True)  # a weight may have repeated a row
    table = table.take(firsts)
    rows = table.column("row").to_numpy()
    times = job.rounds + np.isin(rows, arrays.load(job.work / "more.npy")).astype(np.int64)
    parents = np.repeat(np.arange(len(rows)), times)
    which = np.arange(len(parents)) - np.repeat(np.cumsum(times) - times, times)
    seeds = ranks(content_keys(Turns.of(table)), job.seed)[parents]
    states = mixed(seeds + which.astype(np.uint64) * _ODD)
    repeated = table.take(parents)
    turns = Turns.of(repeated)
    numbers = job.base + rows[parents] * (job.rounds + 1) + which
    ways = (seeds >> np.uint64(2)).astype(np.int64) + which
    return Planned(repeated, turns, numbers, ways, states.tolist(), _editable(turns))


def ranks(keys: Sequence[bytes], seed: int) -> NDArray[np.uint64]:
    """A number for each row that follows from its content and the seed."""
    high = np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), 2)[:, 0]
    return mixed(high.astype(np.uint64) ^ mixed(np.array([seed + 1], dtype=np.uint64)))


def _editable(turns: Turns) -> list[list[int]]:
    """Of each row the messages that an edit may change: what users say, unless it is code."""
    users = np.asarray((turns.role == "user").to_numpy(), dtype=np.bool_)
    code = np.asarray(turns.content.str.contains(CODE).to_numpy(), dtype=np.bool_)
    ids = np.flatnonzero(users & ~code)
    bounds = np.searchsorted(turns.row[ids], np.arange(turns.count + 1))
    return [ids[first:last].tolist() for first, last in pairwise(bounds.tolist())]


def write_asked(job: AskJob) -> Facts:
    """Write the texts of a shard that are to be paraphrased: of each such child what its user said last."""
    import pyarrow as pa

    plan, slots = planned(job.of), job.of.slots
    said = plan.turns.content.to_list()
    chosen = [
        child
        for child, state in enumerate(plan.states)
        if plan.turn_ids[child] and slots[Draw(state).below(len(slots))] == PARAPHRASE
    ]
    texts = [said[plan.turn_ids[child][-1]] for child in chosen]
    columns = {"row": plan.numbers[chosen], "way": plan.ways[chosen], "text": pa.array(texts, pa.string())}
    write_shard(job.of.asked, pa.table(columns))
    return {"asked": len(chosen)}


def make_children(job: ChildJob) -> Facts:
    """Write the children of a shard that can be taken, seen from here, and the keys of their contents."""
    import pyarrow as pa

    plan = planned(job)
    said = plan.turns.content.to_list()
    answers = plan.turns.joined(plan.turns.is_answer).str.to_lowercase().to_list()
    rewritten = _rewritten(job)
    made_by, reasons = [""] * len(plan.states), [""] * len(plan.states)
    for child, state in enumerate(plan.states):
        ids, draw = plan.turn_ids[child], Draw(state)
        first = draw.below(len(job.slots))
        if not ids:
            reasons[child] = "nothing_to_edit"
        elif job.slots[first] == PARAPHRASE:
            text, finished = rewritten.get(int(plan.numbers[child]), ("", True))
            reason = judge(said[ids[-1]], text, job.low, job.high) if finished or not text else "paraphrase_without_end"
            made_by[child], reasons[child] = PARAPHRASE, reason
            said[ids[-1]] = text
        else:
            made_by[child] = _edit(said, ids, job.edits[first:] + job.edits[:first], answers[child], draw)
            reasons[child] = "" if made_by[child] else "nothing_to_edit"
    turns = plan.turns.with_content(pl.Series("content", said, dtype=pl.String))
    why = np.array(reasons, dtype=object)
    why[(why == "") & _newly_shared(turns, plan.turns, plan.numbers, job.work / "held.npy")] = "leaks_into_held_out"
    columns = {name: plan.table.column(name) for name in plan.table.column_names}
    columns |= {"row": pa.array(plan.numbers), "messages": turns.arrow()}
    columns |= {"parent": plan.table.column("row").cast(pa.int64()), "operation": pa.array(made_by, pa.string())}
    taken = pa.table(columns).filter(pa.array(why == ""))
    write_shard(job.children, taken)
    write_keys(job.keys, content_keys(Turns.of(taken)), taken.column("row").to_numpy())
    return {"made": len(taken), "not_taken": dict(Counter(why[why != ""].tolist()))}


def _edit(said: list[str], ids: Sequence[int], edits: Sequence[str], answers: str, draw: Draw) -> str:
    """Edit messages in place by the first of `edits` that finds something; its name, "" where none does."""
    for name in edits:
        fresh = [OPERATIONS[name].made(said[number], answers, draw) for number in ids]
        if any(new != said[number] for number, new in zip(ids, fresh, strict=True)):
            for number, new in zip(ids, fresh, strict=True):
                said[number] = new
            return name
    return ""


def _rewritten(job: ChildJob) -> dict[int, tuple[str, bool]]:
    if not job.paraphrases:
        return {}
    table = read_shard(job.rewritten)
    return {row["row"]: (row["text"], row["finished"]) for row in table.to_pylist()}


def _newly_shared(turns: Turns, parents: Turns, numbers: Numbers, held: Path) -> NDArray[np.bool_]:
    """Which children share 13 words in a row with a held-out row where their parents do not."""
    known = np.asarray(arrays.opened(held))
    found = np.zeros(turns.count, dtype=np.bool_)
    shared = []
    for some in (turns, parents):
        grams, rows = grams_of(some)
        there = np.isin(grams, known)
        shared.append((rows[there], grams[there] ^ mixed(numbers[rows[there]].astype(np.uint64))))
    found[shared[0][0][~np.isin(shared[0][1], shared[1][1])]] = True
    return found
