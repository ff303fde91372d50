"""NEFTune: random noise on the embeddings of tokens while a model learns (Jain et al. 2023, Algorithm 1).

The noise of a document follows from the seed, the step and the document alone. So neither micro-batches, packs nor ranks change
it, and a resumed run ends with the same weights.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.packing import Packs


class Noise:
    """Adds uniform noise in [-1, 1] times alpha / sqrt(length x width) to each document's embeddings, in training alone.

    Args:
        embeddings: the module that turns tokens into vectors.
        alpha: size of the noise; the paper tries 5, 10 and 15.
        seed: of the training.
        lengths: tokens of each document.
    """

    def __init__(self, embeddings: Any, alpha: float, seed: int, lengths: NDArray[np.int64]) -> None:
        self.alpha, self.seed, self.lengths = alpha, seed, lengths
        self._step, self._rows, self._width = 0, Packs(lengths[:0], np.zeros(1, np.int64), lengths[:0]), 0
        embeddings.register_forward_hook(self._add)

    def aim(self, step: int, rows: Packs) -> None:
        """Say what the next pass is of."""
        self._step, self._rows, self._width = step, rows, int(rows.lengths.max(initial=0))

    def _add(self, module: Any, _inputs: Any, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        noise = torch.zeros(len(self._rows) * self._width, output.shape[-1], device=output.device)
        for row, documents in enumerate(self._rows):
            at = row * self._width
            for document in documents.tolist():
                length = int(self.lengths[document])
                noise[at : at + length] = self._of(document, length, noise)
                at += length
        return output + noise.view(output.shape).to(output.dtype)

    def _of(self, document: int, length: int, like: Tensor) -> Tensor:
        """That of one document, `(length, width)`."""
        state = np.random.SeedSequence([self.seed, self._step, document]).generate_state(1, np.uint64)
        generator = torch.Generator(like.device).manual_seed(int(state[0] >> np.uint64(1)))
        width = like.shape[-1]
        drawn = torch.rand(length, width, generator=generator, device=like.device)
        return (2 * drawn - 1) * (self.alpha / math.sqrt(length * width))
