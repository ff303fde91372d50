"""What a step learns from follows from (seed, step) alone, packed or not, mapped or in memory."""

from pathlib import Path

import numpy as np
import pytest

from tasks.batching import epoch_batches, fill
from tasks.training.feeding import Feed
from tasks.training.reading import read_sequences
from tests.tasks.training.conftest import cpu_plan


@pytest.fixture
def train_file(sequences_folder: Path) -> Path:
    return sequences_folder / "train.parquet"


def steps(feed: Feed, count: int) -> list[list[list[int]]]:
    return [[documents.tolist() for documents in feed.rows(step)] for step in range(count)]


def test_without_packing_each_row_is_a_sequence_and_the_batches_are_those_of_the_epoch(train_file: Path) -> None:
    feed = Feed(read_sequences(train_file), 16, seed=1, pad=0)
    assert len(feed) == 160
    batches = epoch_batches(feed.sequences.lengths, 16, 1, 0) + epoch_batches(feed.sequences.lengths, 16, 1, 1)
    assert steps(feed, 20) == [[[int(i)] for i in batch] for batch in batches]
    inputs, labels = feed.collate(feed.rows(3))
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert labels.shape == inputs["input_ids"].shape == (16, feed.rows(3).lengths.max())


def test_with_packing_an_epoch_has_every_sequence_once_and_the_next_has_other_packs(train_file: Path) -> None:
    feed = Feed(read_sequences(train_file), 4, seed=1, pad=0, pack_length=128)
    per_epoch = -(-len(feed) // 4)
    whole = steps(feed, 2 * per_epoch)
    first, second = whole[:per_epoch], whole[per_epoch:]
    for epoch in (first, second):
        assert sorted(i for step in epoch for row in step for i in row) == list(range(160))
        assert sum(len(step) for step in epoch) == len(feed)

    def packs(epoch: list[list[list[int]]]) -> set[tuple[int, ...]]:
        return {tuple(sorted(row)) for step in epoch for row in step}

    assert len(packs(first) & packs(second)) < 0.5 * len(feed)
    again = Feed(read_sequences(train_file), 4, seed=1, pad=0, pack_length=128)
    assert [documents.tolist() for documents in again.rows(per_epoch + 1)] == second[1]  # whatever came before
    assert [documents.tolist() for documents in again.rows(2)] == first[2]
    inputs, _ = feed.collate(feed.rows(0))
    assert set(inputs) == {"input_ids", "position_ids"}


@pytest.mark.parametrize("pack_length", [0, 128])
def test_what_is_mapped_into_memory_gives_the_same_batches(train_file: Path, tmp_path: Path, pack_length: int) -> None:
    here, mapped = (
        Feed(read_sequences(train_file, scratch, in_memory=0), 16, 1, 0, pack_length) for scratch in (None, tmp_path)
    )
    assert (tmp_path / "train.tokens").exists()
    for step in range(4):
        (one, labels), (other, marks) = (feed.collate(feed.rows(step)) for feed in (here, mapped))
        assert all(one[name].equal(other[name]) for name in one)
        assert labels.equal(marks)


def test_packs_put_behind_one_another_are_one_row(train_file: Path) -> None:
    feed = Feed(read_sequences(train_file), 4, seed=1, pad=0, pack_length=128, flat=True)
    inputs, _ = feed.collate(feed.rows(0))
    assert inputs["input_ids"].shape == (1, 4 * feed.rows(0).lengths.max())


def test_the_fill_is_that_of_the_passes_of_every_device(train_file: Path) -> None:
    sequences = read_sequences(train_file)
    feed = Feed(sequences, 16, seed=1, pad=0)
    whole = fill(sequences.lengths, epoch_batches(sequences.lengths, 16, 1, 0))
    assert feed.fill(cpu_plan()) == whole
    assert feed.fill(cpu_plan(micro_batch=1, accumulation=16)) == 1.0  # alone, nothing is padded
    passes = []
    for batch in epoch_batches(sequences.lengths, 16, 1, 0):
        ordered = batch[np.argsort(-sequences.lengths[batch], kind="stable")]
        passes += [ordered[rank::2][at : at + 4] for rank in (0, 1) for at in (0, 4)]
    divided = feed.fill(cpu_plan(devices=2, micro_batch=4, accumulation=2))
    assert divided == fill(sequences.lengths, passes) > whole
    packed = Feed(sequences, 4, seed=1, pad=0, pack_length=256)
    assert packed.fill(cpu_plan(micro_batch=4)) > 0.97
