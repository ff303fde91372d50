"""Tokenized sequences as padded batches of tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.batching import Batches, epoch_batches

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Sequences:
    """All sequences of a split, flat: sequence i is `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: NDArray[np.int32]
    supervised: NDArray[np.int8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence."""
        return np.diff(self.offsets)

    def learned(self, indices: Sequence[int] | NDArray[np.int64]) -> int:
        """Supervised tokens of the sequences `indices`; the first token of a sequence is predicted from nothing."""
        return sum(int(self.supervised[self.offsets[i] + 1 : self.offsets[i + 1]].sum()) for i in indices)


def read_sequences(path: Path) -> Sequences:
    """The sequences of one tokenized Parquet file."""
    table = pq.read_table(path, columns=["input_ids", "supervised"]).combine_chunks()
    ids, mask = (table.column(name).combine_chunks() for name in ("input_ids", "supervised"))
    offsets = ids.offsets.to_numpy().astype(np.int64)
    flat = ids.values.to_numpy(zero_copy_only=False).astype(np.int32)
    return Sequences(flat, mask.values.to_numpy(zero_copy_only=False).astype(np.int8), offsets - offsets[0])


def batch_of_step(sequences: Sequences, size: int, seed: int, step: int, cache: dict[int, Batches]) -> NDArray[np.int64]:
    """Indices of the sequences of optimizer step `step` (from 0); `cache` keeps the current epoch's batches."""
    per_epoch = -(-len(sequences) // size)
    epoch, position = divmod(step, per_epoch)
    if epoch not in cache:
        cache.clear()
        cache[epoch] = epoch_batches(sequences.lengths.tolist(), size, seed, epoch)
    return cache[epoch][position]


def share(indices: NDArray[np.int64], lengths: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """The part of a batch that `rank` computes: sorted by length and dealt out, so that ranks have like work."""
    return indices[np.argsort(-lengths[indices], kind="stable")][rank::world]


def micro_batches(indices: NDArray[np.int64], accumulation: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Exactly `accumulation` parts of at most `size` indices; parts of a short batch may be empty."""
    for part in range(accumulation):
        yield indices[part * size : (part + 1) * size]


def collate(sequences: Sequences, indices: Sequence[int] | NDArray[np.int64], pad: int) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Input ids, attention mask and labels, each `(batch, length)`, padded on the right; labels hold -100 where not learned."""
    import torch

    longest = max(int(sequences.offsets[i + 1] - sequences.offsets[i]) for i in indices)
    ids = np.full((len(indices), longest), pad, dtype=np.int64)
    mask = np.zeros((len(indices), longest), dtype=np.int64)
    labels = np.full((len(indices), longest), IGNORED, dtype=np.int64)
    for row, i in enumerate(indices):
        span = slice(sequences.offsets[i], sequences.offsets[i + 1])
        tokens = sequences.tokens[span]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)] = np.where(sequences.supervised[span] == 1, tokens, IGNORED)
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(labels)
