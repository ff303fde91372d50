"""An untrained base model: a tokenizer learned from a corpus and a random Llama, as a Hugging Face folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
POSITIONS = 512
_HEAD_SIZE = 32

# ChatML (OpenAI, 2023), as Qwen and many others use it.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def plant(folder: Path, corpus: Path, seed: int, vocabulary: int = 2048, hidden_size: int = 192, layers: int = 2) -> int:
    """Write tokenizer, configuration and random weights to `folder`; returns the number of parameters.

    Args:
        folder: made where it does not exist.
        corpus: JSON lines with a field text; the tokenizer is learned from it alone.
        seed: of the weights; the same seed and corpus give the same bytes.
        vocabulary: most entries of the tokenizer; a small corpus gives fewer.
        hidden_size: width, a multiple of 32.
        layers: number of transformer blocks.
    """
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a model this small is written at once
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _learn_tokenizer(corpus, vocabulary)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(tokenizer, hidden_size, layers))
    model.generation_config.update(do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    return int(model.num_parameters())


def _texts(corpus: Path) -> Iterator[str]:
    with corpus.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _learn_tokenizer(corpus: Path, vocabulary: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer (as GPT-2's): every text can be said in it, whatever it was learned from."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHATML,
    )


def _config(tokenizer: "PreTrainedTokenizerFast", hidden_size: int, layers: int) -> "LlamaConfig":
    from transformers import LlamaConfig

    heads = hidden_size // _HEAD_SIZE
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.06,  # three times the usual: so narrow a model learns sooner from it
    )
