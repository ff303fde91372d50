"""Whether a model keeps packed documents apart: asked of the very model that learns, before it learns."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TrainingError
from tasks.packing import Packs
from tasks.training.data import collate_packs
from tasks.training.reading import Sequences

if TYPE_CHECKING:
    from torch import Tensor

_TOKENS = 20  # of the row that is looked at, where the model holds as many
# Shares of the logits' size. The first is rounding: a pack and a document alone have other shapes, so sums have another order.
# The second belongs to packs that differ only in the words of the document before, and is 0 where nothing sees them.
_LIMITS = {"float32": (1e-3, 1e-5)}
_COARSE = (5e-2, 1e-3)  # 16-bit formats
_ADVICE = (
    "Training on packs would mix up rows that have nothing to do with each other. Set training.packing: false, "
    "or use a model whose attention follows position_ids, such as Llama or Qwen."
)

Forward = Callable[..., Any]
Document = NDArray[np.int64]


def demand_isolation(forward: Forward, name: str, vocabulary: int, limit: int, flat: bool, device: Any) -> None:
    """Compare a document behind another one in a pack with the same document alone, and behind yet another one.

    Args:
        forward: the model, called with tensors by name; what it returns has `logits`.
        name: of the model's class, for the message.
        vocabulary: tokens are drawn from it.
        limit: tokens that the model holds.
        flat: whether packs are put one behind the other.
        device: where the tensors must lie.

    Raises:
        TrainingError: the model takes no positions, or its documents see each other.
    """
    try:
        moved, leaked, dtype = _compare(forward, vocabulary, min(_TOKENS, limit), flat, device)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise TrainingError(f"{name} cannot be trained with packing: it takes no position_ids ({error}). {_ADVICE}") from error
    if not (math.isfinite(moved) and math.isfinite(leaked)):
        return  # weights that are not finite are found, and said, by the first step
    most_moved, most_leaked = _LIMITS.get(dtype, _COARSE)
    if moved > most_moved or leaked > most_leaked:
        raise TrainingError(
            f"{name} does not keep packed documents apart. Behind another document, the logits of a document differ from those "
            f"of the document alone by {moved:.2g} of their size, and by {leaked:.2g} with the words of that other document; "
            f"at most {most_moved:g} and {most_leaked:g} were expected of {dtype}. {_ADVICE}"
        )


def _compare(forward: Forward, vocabulary: int, length: int, flat: bool, device: Any) -> tuple[float, float, str]:
    """What being packed changes in a document's logits, what the words before it change, and the number format."""
    generator, own = np.random.default_rng(0), length // 2
    before, other, document, beside = (
        generator.integers(0, vocabulary, size) for size in (length - own, length - own, own, length - 3)
    )

    def logits(*rows: list[Document]) -> "Tensor":
        """Those of the last document of the first row, `(tokens, vocabulary)`."""
        ids, positions, _ = (tensor.to(device) for tensor in _collated(rows, flat))
        output = forward(input_ids=ids, position_ids=positions, use_cache=False).logits
        end = sum(len(part) for part in rows[0])
        last: Tensor = output[0, end - own : end]
        return last

    alone = logits([document])
    packed, again = (logits([first, document], [beside]) for first in (before, other))
    size = _largest(alone) or math.nan
    return _largest(packed - alone) / size, _largest(again - packed) / size, str(alone.dtype).removeprefix("torch.")


def _collated(rows: Sequence[list[Document]], flat: bool) -> tuple["Tensor", "Tensor", "Tensor"]:
    documents = [document for row in rows for document in row]
    offsets = np.cumsum([0, *(len(document) for document in documents)])
    counts = np.cumsum([0, *(len(row) for row in rows)])
    tokens = np.concatenate(documents).astype(np.int32)
    sequences = Sequences(tokens, np.ones(len(tokens), np.int8), offsets)
    return collate_packs(sequences, Packs(np.arange(len(documents)), counts, np.diff(offsets[counts])), 0, flat)


def _largest(values: "Tensor") -> float:
    """The largest root mean square over the vocabulary, of all tokens."""
    return float(values.float().square().mean(-1).sqrt().max())
