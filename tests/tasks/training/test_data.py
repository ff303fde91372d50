from pathlib import Path

import numpy as np
import torch

from tasks.training.data import batch_of_step, collate, micro_batches, share
from tasks.training.losses import summed_cross_entropy
from tasks.training.reading import read_sequences
from tests.conftest import write_sequences


def test_sequences_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_sequences(tmp_path / "x.parquet", [[5, 6, 7], [8], [9, 10, 11, 12]], context=1)
    sequences = read_sequences(tmp_path / "x.parquet")
    assert sequences.lengths.tolist() == [3, 1, 4]
    assert sequences.learned([0, 1, 2]) == 2 + 0 + 3
    ids, mask, labels = collate(sequences, [0, 2], pad=0)
    assert ids.tolist() == [[5, 6, 7, 0], [9, 10, 11, 12]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert labels.tolist() == [[-100, 6, 7, -100], [-100, 10, 11, 12]]


def test_an_epoch_sees_every_sequence_once_and_the_next_in_another_order(sequences_folder: Path) -> None:
    sequences = read_sequences(sequences_folder / "train.parquet")
    steps = [batch_of_step(sequences, 16, 0, step, {}).tolist() for step in range(20)]
    first, second = ([i for step in part for i in step] for part in (steps[:10], steps[10:]))
    assert sorted(first) == sorted(second) == list(range(160))
    assert first != second
    assert batch_of_step(sequences, 16, 0, 13, {}).tolist() == steps[13]  # a pure function of seed and step
    assert batch_of_step(sequences, 16, 1, 13, {}).tolist() != steps[13]


def test_ranks_share_a_batch_without_gap_or_overlap() -> None:
    lengths = np.arange(100)
    batch = np.array([3, 50, 7, 99, 20])
    parts = [share(batch, lengths, rank, 2).tolist() for rank in range(2)]
    assert parts == [[99, 20, 3], [50, 7]]
    assert [part.tolist() for part in micro_batches(np.array([1, 2, 3]), 3, 2)] == [[1, 2], [3], []]


def test_the_loss_is_the_sum_over_supervised_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 7, generator=generator)
    labels = torch.tensor([[-100, 3, -100, 5], [-100, -100, -100, 1]])
    log = logits.log_softmax(-1)
    by_hand = -(log[0, 0, 3] + log[0, 2, 5] + log[1, 2, 1])
    torch.testing.assert_close(summed_cross_entropy(logits, labels), by_hand)
