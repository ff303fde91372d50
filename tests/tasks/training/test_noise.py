"""NEFTune's noise follows from the seed, the step and the document alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tasks.packing import Packs, pack, singles
from tasks.training.noise import Noise

LENGTHS = np.array([5, 9, 3, 7])
WIDTH = 64


def embeddings() -> torch.nn.Embedding:
    return torch.nn.Embedding.from_pretrained(torch.zeros(16, WIDTH))


def noise_of(rows: Packs, step: int = 0, alpha: float = 5.0, seed: int = 1, flat: bool = False) -> dict[int, torch.Tensor]:
    """What each document of `rows` gets, and that the padding gets none."""
    module = embeddings()
    noise = Noise(module, alpha, seed, LENGTHS)
    noise.aim(step, rows)
    width = int(rows.lengths.max())
    ids = torch.zeros((1, len(rows) * width) if flat else (len(rows), width), dtype=torch.long)
    output = module(ids).view(len(rows), width, WIDTH)
    found: dict[int, torch.Tensor] = {}
    for row, documents in enumerate(rows):
        at = 0
        for document in documents.tolist():
            found[document] = output[row, at : at + LENGTHS[document]]
            at += int(LENGTHS[document])
        assert output[row, at:].abs().sum() == 0
    return found


def test_its_size_is_that_of_the_paper() -> None:
    for document, values in noise_of(singles(LENGTHS)).items():
        scale = 5.0 / math.sqrt(LENGTHS[document] * WIDTH)
        assert float(values.abs().max()) <= scale
        assert float(values.abs().max()) > 0.95 * scale
        assert float(values.mean().abs()) < 0.1 * scale


def test_micro_batches_and_packs_do_not_change_it() -> None:
    whole = noise_of(singles(LENGTHS))
    packs = pack(LENGTHS, 16, seed=0, epoch=0)
    assert len(packs) < 4
    others = [noise_of(packs), noise_of(packs, flat=True), noise_of(singles(LENGTHS).rows([3, 1]))]
    for found in others:
        for document, values in found.items():
            assert values.equal(whole[document])


@pytest.mark.parametrize("change", [{"step": 1}, {"seed": 2}])
def test_another_step_or_seed_gives_other_noise(change: dict[str, int]) -> None:
    whole, other = noise_of(singles(LENGTHS)), noise_of(singles(LENGTHS), **change)
    assert not any(whole[document].equal(other[document]) for document in whole)


def test_alpha_is_its_size() -> None:
    one, two = noise_of(singles(LENGTHS), alpha=1.0), noise_of(singles(LENGTHS), alpha=2.0)
    torch.testing.assert_close(2 * one[1], two[1])


def test_none_is_added_where_nothing_is_learned() -> None:
    module: Any = embeddings()
    noise = Noise(module, 5.0, 1, LENGTHS)
    noise.aim(0, singles(LENGTHS))
    ids = torch.zeros(4, 9, dtype=torch.long)
    assert module(ids).abs().sum() > 0
    assert module.eval()(ids).abs().sum() == 0
