"""Which sequences share a batch: a pure function of lengths, batch size, seed and epoch, known to every process.

On CPUs and with plain attention, padding was half of the time; batches of similar lengths take it away. The order of batches is
shuffled, so that lengths do not come in order during training.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Batches = list[NDArray[np.int64]]
_WINDOW = 32  # batches whose sequences are sorted together; larger is less padding and less random


def sorted_batches(lengths: Sequence[int] | NDArray[np.int64], size: int) -> Batches:
    """Indices in batches of `size`, longest first: the order for evaluation, where a batch too large fails at once."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def epoch_batches(lengths: Sequence[int] | NDArray[np.int64], size: int, seed: int, epoch: int) -> Batches:
    """Batches of `size` indices for one epoch; every index comes once, the last batch may be smaller."""
    length = np.asarray(lengths, dtype=np.int64)
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(length))
    window = _WINDOW * size
    batches: Batches = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(length[part], kind="stable")]
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    # The short batch stays last, so that the number of a step names the same amount of data whatever the seed.
    whole = [batch for batch in batches if len(batch) == size]
    rest = [batch for batch in batches if len(batch) < size]
    return [whole[index] for index in generator.permutation(len(whole))] + rest


def fill(lengths: Sequence[int] | NDArray[np.int64], batches: Batches) -> float:
    """Share of positions that hold a token when each batch is padded to its longest sequence."""
    length = np.asarray(lengths, dtype=np.int64)
    parts = [length[batch] for batch in batches if len(batch)]
    positions = sum(int(part.max()) * len(part) for part in parts)
    return sum(int(part.sum()) for part in parts) / positions if positions else 1.0
