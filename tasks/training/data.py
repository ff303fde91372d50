"""Batches of sequences as tensors: padded, or packed with no attention between the documents of a row."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.batching import Batches, epoch_batches
from tasks.packing import Packs
from tasks.training.reading import Sequences

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
Indices = Sequence[int] | NDArray[np.int64]


class Rows(Protocol):
    """What batches are made of: sequences, or packs of them."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        ...


def batch_of_step(rows: Rows, size: int, seed: int, step: int, cache: dict[int, Batches]) -> NDArray[np.int64]:
    """Indices of the rows of optimizer step `step` (from 0); `cache` keeps the current epoch's batches."""
    epoch, position = divmod(step, -(-len(rows) // size))
    if epoch not in cache:
        cache.clear()
        cache[epoch] = epoch_batches(rows.lengths, size, seed, epoch)
    return cache[epoch][position]


def share(indices: NDArray[np.int64], lengths: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """The part of a batch that `rank` computes: sorted by length and dealt out, so that ranks have like work."""
    return indices[np.argsort(-lengths[indices], kind="stable")][rank::world]


def micro_batches(indices: NDArray[np.int64], accumulation: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Exactly `accumulation` parts of at most `size` indices; parts of a short batch may be empty."""
    for part in range(accumulation):
        yield indices[part * size : (part + 1) * size]


def collate(sequences: Sequences, indices: Indices, pad: int) -> tuple["Tensor", "Tensor", "Tensor"]:
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


def collate_packs(sequences: Sequences, packs: Packs, pad: int, flat: bool = False) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Input ids, positions and labels, each `(batch, length)`, padded on the right; positions begin at 0 with each document.

    With these positions, no attention mask and no key-value cache, transformers keeps the documents of a row apart. The padding
    is a document of its own, so nothing attends to it. Labels hold -100 where nothing is learned, and on each document's first
    token, which the document before it would predict.

    Args:
        sequences: the documents.
        packs: the rows.
        pad: token that fills up.
        flat: whether all rows are put one behind the other into one, as flash attention needs it.
    """
    import torch

    shape = (len(packs), int(packs.lengths.max()))
    ids, labels = np.full(shape, pad, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    for row, documents in enumerate(packs):
        at = 0
        for i in documents:
            span = slice(sequences.offsets[i], sequences.offsets[i + 1])
            tokens = sequences.tokens[span]
            here = slice(at, at + len(tokens))
            ids[row, here] = tokens
            labels[row, here] = np.where(sequences.supervised[span] == 1, tokens, IGNORED)
            labels[row, at] = IGNORED
            positions[row, here] = np.arange(len(tokens))
            at += len(tokens)
        positions[row, at:] = np.arange(shape[1] - at)
    form = (1, -1) if flat else shape
    return tuple(torch.from_numpy(array.reshape(form)) for array in (ids, positions, labels))  # type: ignore[return-value]
