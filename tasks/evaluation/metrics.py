"""What is measured on one model: the loss of the right answers, and the answers it gives itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.evaluation.items import Item, Progress

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

_POSITIONS = 2048  # positions whose log-probabilities are held in fp32 at once


@dataclass(frozen=True)
class Subject:
    """A loaded model and what is needed to ask it; with a fixed batch size two models meet the same batches."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    stop_ids: tuple[int, ...]
    max_positions: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class Answer:
    """A greedy answer; `finished` says that it ended by itself, `cut` how many prompt tokens did not fit."""

    text: str
    finished: bool
    cut: int


def normalise(text: str) -> str:
    """Strip, make each run of white space one space, fold case; nothing more, so that punctuation and wording count."""
    return " ".join(text.split()).casefold()


def exact_match(answer: str, reference: str) -> bool:
    """Whether two answers are equal once normalised."""
    return normalise(answer) == normalise(reference)


def mean_losses(subject: Subject, items: Sequence[Item], progress: Progress) -> list[tuple[float | None, int]]:
    """For each item the mean of -log p(token | tokens before it) over its supervised tokens, in nats, and their number.

    The first token of a sequence has nothing before it and never counts; None where no token is supervised. The loss is
    made from logits, since a model given labels may add penalties of its own (AdaLoRA adds 0.5 x orthogonality; Zhang
    et al. 2023, equation 4).
    """
    from tasks.batching import sorted_batches

    losses: list[tuple[float | None, int]] = [(None, 0)] * len(items)
    for batch in sorted_batches([len(item.input_ids) for item in items], subject.batch_size):
        for at, loss in zip(batch, _batch_losses(subject, [items[at] for at in batch]), strict=True):
            losses[at] = loss
        progress(len(batch))
    return losses


def _batch_losses(subject: Subject, items: Sequence[Item]) -> list[tuple[float | None, int]]:
    """Legend: B items, L longest of them, N supervised positions, V vocabulary."""
    import torch

    ids_BL, real_BL = _pad([item.input_ids for item in items], 0, subject.device)
    learned_BL, _ = _pad([item.supervised for item in items], 0, subject.device)
    with torch.inference_mode():
        logits_BLV = subject.model(input_ids=ids_BL, attention_mask=real_BL, use_cache=False).logits
        row_N, at_N = learned_BL[:, 1:].nonzero(as_tuple=True)
        nats_N = _negative_log_likelihoods(logits_BLV, ids_BL, row_N, at_N)
        sums_B = torch.zeros(len(items), dtype=torch.float64, device=nats_N.device).index_add_(0, row_N, nats_N)
        counts_B = torch.bincount(row_N, minlength=len(items))
    pairs = zip(sums_B.tolist(), counts_B.tolist(), strict=True)
    return [(total / count if count else None, count) for total, count in pairs]


def _negative_log_likelihoods(
    logits: "torch.Tensor", ids: "torch.Tensor", rows: "torch.Tensor", positions: "torch.Tensor"
) -> "torch.Tensor":
    """-log p of the token after each position, as float64; log-softmax in fp32 whatever the logits are."""
    import torch
    from torch.nn.functional import cross_entropy

    parts = [
        cross_entropy(logits[row, at].float(), ids[row, at + 1], reduction="none").double()
        for row, at in zip(torch.split(rows, _POSITIONS), torch.split(positions, _POSITIONS), strict=True)
    ]
    return torch.cat(parts)


def answers(subject: Subject, prompts: Sequence[str], max_new_tokens: int, progress: Progress) -> list[Answer]:
    """Greedy answers to rendered prompts.

    A prompt that leaves no room for `max_new_tokens` loses its beginning, since the question stands at its end.
    """
    from tasks.batching import sorted_batches

    limit = max(1, subject.max_positions - max_new_tokens)
    whole = [prompt_ids(subject, prompt) for prompt in prompts]
    found: dict[int, Answer] = {}
    for batch in sorted_batches([min(limit, len(ids)) for ids in whole], subject.batch_size):
        outputs = _generate(subject, [whole[at][-limit:] for at in batch], max_new_tokens)
        for at, output in zip(batch, outputs, strict=True):
            found[int(at)] = _answer(subject, output, max(0, len(whole[at]) - limit))
        progress(len(batch))
    return [found[at] for at in range(len(prompts))]


def prompt_ids(subject: Subject, prompt: str) -> list[int]:
    """The tokens of a rendered prompt; it holds its special tokens already, so none is added."""
    return list(subject.tokenizer(prompt, add_special_tokens=False)["input_ids"])


def greedy_settings(subject: Subject, max_new_tokens: int, min_new_tokens: int = 0) -> "GenerationConfig":
    """Greedy decoding until a stop token; the cache serves one call alone, model.config.use_cache stays off."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens or None,
        eos_token_id=list(subject.stop_ids),
        pad_token_id=subject.tokenizer.pad_token_id,
    )


def stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's end of sequence and those that the model's authors name."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = [named] if isinstance(named, int) else list(named or [])
    return tuple(sorted({int(tokenizer.eos_token_id), *listed}))


def plain_generation(model: "PreTrainedModel") -> None:
    """Forget the decoding habits that a model came with (sampling, repetition penalty): greedy means greedy."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def _generate(subject: Subject, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """The new tokens of each prompt. Padding stands left, so that every answer begins at the same position."""
    import torch

    ids, real = _pad(prompts, subject.tokenizer.pad_token_id, subject.device, left=True)
    settings = greedy_settings(subject, max_new_tokens)
    with torch.inference_mode():
        output = subject.model.generate(input_ids=ids, attention_mask=real, generation_config=settings)
    return [list(row) for row in output[:, ids.shape[1] :].tolist()]


def _answer(subject: Subject, output: list[int], cut: int) -> Answer:
    end = next((at for at, token in enumerate(output) if token in subject.stop_ids), None)
    text = subject.tokenizer.decode(output[:end], skip_special_tokens=True)
    return Answer(text=str(text), finished=end is not None, cut=cut)


def _pad(rows: Sequence[Sequence[int]], filler: int, device: str, left: bool = False) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The rows as one tensor `(rows, longest)`, and where it is real."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), filler, dtype=torch.long)
    real = torch.zeros((len(rows), longest), dtype=torch.long)
    for at, row in enumerate(rows):
        span = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[at, span] = torch.tensor(row, dtype=torch.long)
        real[at, span] = 1
    return ids.to(device), real.to(device)
