"""What each optimizer step learns from: a pure function of (seed, step)."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tasks.batching import Batches
from tasks.contracts import HardwarePlan
from tasks.packing import Packs, pack, singles
from tasks.training import data
from tasks.training.reading import Sequences

if TYPE_CHECKING:
    from torch import Tensor

Inputs = dict[str, "Tensor"]
_SAMPLE = 1_000  # batches whose fill is computed


@dataclass
class Feed:
    """The rows of a training.

    Args:
        sequences: what is learned.
        batch_size: rows of an optimizer step.
        seed: of the order, and of which documents share a pack.
        pad: token that fills up.
        pack_length: tokens of a pack; 0: each row is one sequence.
        flat: whether the packs of a pass are put one behind the other, as flash attention needs it.
    """

    sequences: Sequences
    batch_size: int
    seed: int
    pad: int
    pack_length: int = 0
    flat: bool = False
    _batches: dict[int, Batches] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._epoch, self._packs = 0, self._plan(0)

    def __len__(self) -> int:
        """Rows of an epoch, as many in each."""
        return len(self._packs)

    def rows(self, step: int) -> Packs:
        """The rows of optimizer step `step`, from 0."""
        epoch = step // -(-len(self) // self.batch_size)
        if epoch != self._epoch:
            self._epoch, self._packs = epoch, self._plan(epoch)
        return self._packs.rows(data.batch_of_step(self._packs, self.batch_size, self.seed, step, self._batches))

    def collate(self, rows: Packs) -> tuple[Inputs, "Tensor"]:
        """What the model is given for `rows`, and the labels."""
        if not self.pack_length:
            return padded(self.sequences, rows.documents, self.pad)
        ids, positions, labels = data.collate_packs(self.sequences, rows, self.pad, self.flat)
        return {"input_ids": ids, "position_ids": positions}, labels

    def order(self, steps: int) -> str:
        """sha256 over the rows of the first `steps` optimizer steps, in their order."""
        hasher = hashlib.sha256()
        for step in range(steps):
            rows = self.rows(step)
            hasher.update(len(rows).to_bytes(8, "little") + np.asarray(rows.documents, dtype="<i8").tobytes())
        return hasher.hexdigest()

    def fill(self, plan: HardwarePlan) -> float:
        """Share of the positions computed on that hold a token, in the first epoch: over all batches, or a thousand of them."""
        steps = -(-len(self) // self.batch_size)
        tokens, positions = 0, 0
        for step in np.unique(np.linspace(0, steps - 1, min(steps, _SAMPLE)).astype(np.int64)).tolist():
            lengths = self.rows(step).lengths
            for group in range(plan.groups):
                mine = data.share(np.arange(len(lengths)), lengths, group, plan.groups)
                for part in data.micro_batches(mine, plan.accumulation, plan.micro_batch):
                    tokens += int(lengths[part].sum())
                    positions += len(part) * int(lengths[part].max(initial=0))
        return tokens / positions if positions else 1.0

    def _plan(self, epoch: int) -> Packs:
        lengths = self.sequences.lengths
        return pack(lengths, self.pack_length, self.seed, epoch) if self.pack_length else singles(lengths)


def padded(sequences: Sequences, indices: data.Indices, pad: int) -> tuple[Inputs, "Tensor"]:
    """What the model is given for single sequences, and the labels."""
    ids, mask, labels = data.collate(sequences, indices, pad)
    return {"input_ids": ids, "attention_mask": mask}, labels
