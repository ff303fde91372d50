"""A document in a pack is computed as if it stood alone: logits, loss and gradients, whatever the attention and positions."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from tasks.packing import Packs, pack
from tasks.training.data import collate, collate_packs
from tasks.training.losses import summed_cross_entropy
from tasks.training.reading import Sequences
from tests.conftest import progression

SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM, LlamaConfig(**SIZES)


def qwen2_with_a_window() -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM, Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1)


def qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=8)


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return GPT2LMHeadModel, config


FAMILIES = [llama, qwen2_with_a_window, qwen3, gpt2]


def build(family: Callable[[], Any], attention: str) -> Any:
    model_class, config = family()
    torch.manual_seed(0)
    return model_class._from_config(config, attn_implementation=attention)


@pytest.fixture
def sequences() -> Sequences:
    """Twelve documents of 10 to 59 tokens, their first four not learned."""
    random = Random(1)
    rows = [progression(random) for _ in range(12)]
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    supervised = np.concatenate([[0] * 4 + [1] * (len(row) - 4) for row in rows]).astype(np.int8)
    return Sequences(np.concatenate(rows).astype(np.int32), supervised, offsets)


def each(sequences: Sequences, packs: Packs) -> Iterator[tuple[int, int, slice]]:
    """(document, row, its place in the row)."""
    for row, documents in enumerate(packs):
        at = 0
        for document in documents.tolist():
            length = int(sequences.lengths[document])
            yield document, row, slice(at, at + length)
            at += length


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss_of_a_packed_document_are_those_of_the_document_alone(
    family: Any, attention: str, sequences: Sequences
) -> None:
    model = build(family, attention).eval()
    packs = pack(sequences.lengths, 128, seed=0, epoch=0)
    assert len(set(packs.lengths.tolist())) > 1  # some rows are padded
    assert max(len(documents) for documents in packs) > 2
    ids, positions, labels = collate_packs(sequences, packs, pad=0)
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        mixed = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        for document, row, place in each(sequences, packs):
            alone_ids, mask, alone_labels = collate(sequences, [document], pad=0)
            alone = model(input_ids=alone_ids, attention_mask=mask, use_cache=False).logits
            torch.testing.assert_close(packed[row, place], alone[0], atol=1e-5, rtol=0)
            losses = [summed_cross_entropy(packed[row : row + 1, place], labels[row : row + 1, place])]
            losses.append(summed_cross_entropy(alone, alone_labels))
            torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-5)
            if place.start:  # without positions that begin anew they do see each other
                assert (mixed[row, place] - alone[0]).abs().max() > 1e-2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_on_packs_has_the_gradients_of_a_step_on_padded_rows(family: Any, attention: str, sequences: Sequences) -> None:
    model = build(family, attention)
    packs = pack(sequences.lengths, 128, seed=0, epoch=0)

    def gradients(loss: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        model.zero_grad()
        value = loss() / sequences.learned(range(12))
        value.backward()
        return [value.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    def padded() -> torch.Tensor:
        ids, mask, labels = collate(sequences, range(12), pad=0)
        return summed_cross_entropy(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, labels)

    def packed(flat: bool = False) -> torch.Tensor:
        ids, positions, labels = collate_packs(sequences, packs, pad=0, flat=flat)
        return summed_cross_entropy(model(input_ids=ids, position_ids=positions, use_cache=False).logits, labels)

    expected = gradients(padded)
    assert max(float(gradient.abs().max()) for gradient in expected[1:]) > 1e-3
    for loss in (packed, lambda: packed(flat=True)):
        for found, right in zip(gradients(loss), expected, strict=True):
            torch.testing.assert_close(found, right, atol=1e-6, rtol=1e-4)


def test_the_padding_is_a_document_of_its_own(sequences: Sequences) -> None:
    """What stands there changes no document, and no loss comes from it."""
    model = build(llama, "sdpa").eval()
    packs = pack(sequences.lengths, 128, seed=0, epoch=0)
    with torch.no_grad():
        for flat in (False, True):
            found = []
            for pad in (0, 7):
                ids, positions, labels = collate_packs(sequences, packs, pad, flat)
                logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
                found.append(summed_cross_entropy(logits, labels))
            assert found[0] == found[1]


def test_rows_positions_and_labels_by_hand() -> None:
    tokens = np.array([5, 6, 7, 8, 9, 10, 11, 12], dtype=np.int32)
    marks = np.array([0, 1, 1, 1, 0, 1, 1, 1], dtype=np.int8)
    sequences = Sequences(tokens, marks, np.array([0, 3, 5, 8]))  # documents 5 6 7, 8 9 and 10 11 12
    packs = Packs(np.array([0, 1, 2]), np.array([0, 2, 3]), np.array([5, 3]))
    ids, positions, labels = collate_packs(sequences, packs, pad=1)
    assert ids.tolist() == [[5, 6, 7, 8, 9], [10, 11, 12, 1, 1]]
    assert positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 0, 1]]
    assert labels.tolist() == [[-100, 6, 7, -100, -100], [-100, 11, 12, -100, -100]]
    for one, other in zip(collate_packs(sequences, packs, 1, flat=True), (ids, positions, labels), strict=True):
        assert one.tolist() == [[value for row in other.tolist() for value in row]]
    assert int((labels != -100).sum()) == sequences.learned([0, 1, 2])


def test_flash_attention_is_told_where_documents_begin(sequences: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels are for GPUs; here a reference takes their place, and is given what transformers gives them."""
    from transformers import modeling_flash_attention_utils as flash

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
        heads = (part.transpose(1, 2) for part in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True).transpose(1, 2)

    def attend_apart(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens_q: torch.Tensor, **_: Any) -> torch.Tensor:
        ends = cu_seqlens_q.tolist()
        spans = [slice(*pair) for pair in pairwise(ends)]
        return torch.cat([attend(q[None, span], k[None, span], v[None, span])[0] for span in spans])

    functions = ((attend, attend_apart, None, None, None), (lambda **_: {}, lambda **_: {}))
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_: functions)
    model = build(llama, "sdpa").eval()
    packs = pack(sequences.lengths, 128, seed=0, epoch=0)

    def loss(flat: bool) -> float:
        ids, positions, labels = collate_packs(sequences, packs, 0, flat)
        with torch.no_grad():
            return float(summed_cross_entropy(model(input_ids=ids, position_ids=positions, use_cache=False).logits, labels))

    right = loss(flat=False)
    model.config._attn_implementation = "flash_attention_2"
    assert loss(flat=True) == pytest.approx(right, rel=1e-6)
    assert loss(flat=False) != pytest.approx(right, rel=1e-4)  # several rows: transformers looks for documents in one alone
