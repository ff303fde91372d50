"""The paraphrasing child process: `python -m tasks.data.augmenting.worker JOB.json`.

The model is asked in a few ways to say a text in other words, which one follows from the row. It always gives the likeliest
words, so that the same rows in the same batches give the same paraphrases.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.data.augmenting.job import ParaphraseJob
from tasks.data.shards import read_shard, shard_paths, write_shard
from tasks.errors import TuneflowError
from tasks.models import load_model, load_tokenizer
from tasks.process import emit, hush

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WAYS = (
    "Say the following in other words. Keep every name, number and quotation, and add nothing.",
    "Rewrite the following as somebody else would ask it. Keep every name, number and quotation, and do not answer it.",
    "Put the following more briefly. Keep every name, number and quotation, and do not answer it.",
)


class Answer(NamedTuple):
    """What the model said, and whether it came to an end."""

    text: str
    finished: bool


NOTHING = Answer("", finished=False)
_SPARE_TOKENS = 16  # that a paraphrase may be longer than its text


def main(arguments: list[str]) -> int:
    """Run the job in the file named by the only argument; the exit status."""
    hush()
    try:
        run(ParaphraseJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8")))
    except TuneflowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def run(job: ParaphraseJob) -> None:
    """Write the paraphrases of every shard."""
    import pyarrow as pa
    import torch

    torch.set_num_threads(job.threads)
    device = job.device if job.device == "cpu" or torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(job.model, job.trust_remote_code)
    tokenizer.padding_side = "left"  # what is generated follows the text
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = load_model(job.model, dtype, job.trust_remote_code).to(device).eval()
    shards = shard_paths(job.texts)
    total, done = sum(len(read_shard(path, ["row"])) for path in shards), 0
    for path in shards:
        table = read_shard(path)
        ways, texts = table.column("way").to_pylist(), table.column("text").to_pylist()
        found = [NOTHING] * len(texts)
        for batch in _batches(texts, job.batch_size):
            prompts = [_prompt(tokenizer, WAYS[ways[at] % len(WAYS)], texts[at]) for at in batch]
            for at, answer in zip(batch, _answers(model, tokenizer, prompts, [texts[at] for at in batch]), strict=True):
                found[at] = answer
            done += len(batch)
            emit("progress", step="augment", done=done, total=total)
        said = {
            "text": pa.array([answer.text for answer in found], pa.string()),
            "finished": [answer.finished for answer in found],
        }
        write_shard(job.out / path.name, pa.table({"row": table.column("row"), **said}))


def _batches(texts: Sequence[str], size: int) -> Iterator[list[int]]:
    """The places of texts of like lengths together."""
    order = sorted(range(len(texts)), key=lambda at: (len(texts[at]), texts[at]))
    return (order[first : first + size] for first in range(0, len(order), size))


def _prompt(tokenizer: "PreTrainedTokenizerFast", way: str, text: str) -> str:
    if not tokenizer.chat_template:
        return f"{way}\n\nText: {text}\n\nIn other words:"
    turns = [{"role": "user", "content": f"{way}\n\n{text}"}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _answers(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", prompts: Sequence[str], texts: Sequence[str]
) -> list[Answer]:
    """What the model says to each prompt; nothing where prompt and answer are longer than it can hold."""
    import torch
    from transformers import GenerationConfig

    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    asked, said = (list(map(len, tokenizer(list(some))["input_ids"])) for some in (prompts, texts))
    fits = [at for at in range(len(prompts)) if asked[at] + said[at] + _SPARE_TOKENS <= limit]
    answers = [NOTHING] * len(prompts)
    if not fits:
        return answers
    plain = not tokenizer.chat_template  # then the prompt has no control tokens of its own
    inputs: Any = tokenizer([prompts[at] for at in fits], return_tensors="pt", padding=True, add_special_tokens=plain)
    width = int(inputs["input_ids"].shape[1])
    stops = _stops(model, tokenizer)
    settings = GenerationConfig(  # in place of the habits that the model came with: greedy means greedy
        max_new_tokens=min(max(said[at] for at in fits) + _SPARE_TOKENS, limit - width), do_sample=False, use_cache=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=stops,
    )  # fmt: skip
    with torch.inference_mode():
        ids: Any = model.generate(
            input_ids=inputs["input_ids"].to(model.device), attention_mask=inputs["attention_mask"].to(model.device),
            generation_config=settings,
        )  # fmt: skip
    for at, row in zip(fits, ids[:, width:].tolist(), strict=True):
        new = row[: said[at] + _SPARE_TOKENS]  # its own length, whatever else is in the batch
        first, ended, _ = str(tokenizer.decode(new, skip_special_tokens=True)).strip().partition("\n\n")
        answers[at] = Answer(first.strip(), bool(ended) or any(token in stops for token in new))
    return answers


def _stops(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """What ends an answer, as tokenizer and model say."""
    named = getattr(model.generation_config, "eos_token_id", None)
    of_model = named if isinstance(named, list) else [named] if named is not None else []
    return sorted({*of_model, tokenizer.eos_token_id})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
