"""What is decided once for all shards: how texts become ids and how the template is filled in, and why so."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.contracts import ModelRef, Value
from tasks.data.encoding import Encoder
from tasks.data.fast_tokens import Engine, encoder_of, text_encoder
from tasks.data.rendering import Renderer, TemplateError
from tasks.data.rows import Message
from tasks.data.shards import shard_paths
from tasks.data.templates import Forms, prove
from tasks.data.truncation import Truncation
from tasks.encryption import vault
from tasks.models import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SAMPLE = 2_000  # rows on which encoders are compared
_RENDERED = 400  # rows on which the template's forms are compared with jinja
_SHARDS = 8  # from which the sample is taken


class TokenizeSetup(Value):
    """What tokenizing a shard needs to know; the same setup gives the same sequences in every process.

    Args:
        tokenizer: folder with the tokenizer.
        trust_remote_code: whether the tokenizer's own code may run.
        template: the chat template.
        task: text is learned whole; completion is prompt, line break and answer; the others use the template.
        limit: most tokens of a sequence.
        truncation: what becomes of longer rows.
        engine: which encoder gave the tokenizer's own ids when they were compared.
        forms: whether the template's forms gave the same as jinja when they were compared.
        triggers: texts in contents that jinja is needed for.
        plain: whether the class that all fast tokenizers share gives the same tokenizer; its import needs no torch.
    """

    tokenizer: str
    trust_remote_code: bool = False
    template: str
    task: str
    limit: int = Field(ge=1)
    truncation: Truncation
    engine: Engine
    forms: bool
    triggers: tuple[str, ...] = ()
    plain: bool = False


def decide(
    tokenizer: "PreTrainedTokenizerFast",
    base: ModelRef,
    task: str,
    limit: int,
    truncation: Truncation,
    folders: Sequence[Path],
) -> tuple[TokenizeSetup, list[str]]:
    """How every shard is tokenized, tried on rows from the first folder that has any, and the sentences that say why."""
    rows = next(filter(None, map(_sample, folders)), [])
    renderer = Renderer(tokenizer, task)
    contents = [message["content"] for messages in rows for message in messages]
    encoder, engine_reason = text_encoder(tokenizer, [*_segments(renderer, rows[:_RENDERED]), *contents])
    forms, forms_reason = prove(renderer, rows[:_RENDERED])
    setup = TokenizeSetup(
        tokenizer=base.location,
        trust_remote_code=base.trust_remote_code,
        template=str(tokenizer.get_chat_template()),
        task=task,
        limit=limit,
        truncation=truncation,
        engine=encoder.engine,
        forms=forms.use,
        triggers=forms.triggers,
        plain=is_plain(tokenizer, base),
    )
    _encoders.clear()
    _encoders[setup] = Encoder(renderer, Forms(renderer, setup.forms, setup.triggers), encoder)
    return setup, [engine_reason, forms_reason]


_encoders: dict[TokenizeSetup, Encoder] = {}  # the last one of this process


def encoder_for(setup: TokenizeSetup) -> Encoder:
    """What tokenizes shards by a setup; made once in each process."""
    if setup not in _encoders:
        load = _load_plain if setup.plain else load_tokenizer
        tokenizer = load(setup.tokenizer, setup.trust_remote_code)
        tokenizer.chat_template = setup.template
        renderer = Renderer(tokenizer, setup.task)
        _encoders.clear()
        _encoders[setup] = Encoder(renderer, Forms(renderer, setup.forms, setup.triggers), encoder_of(tokenizer, setup.engine))
    return _encoders[setup]


def is_plain(tokenizer: "PreTrainedTokenizerFast", base: ModelRef) -> bool:
    """Whether a process may load the tokenizer without its own class: all that tokenizing asks of it is the same."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    kind = type(tokenizer)
    if base.trust_remote_code or not isinstance(tokenizer, PreTrainedTokenizerFast):
        return False
    if kind.apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
        return False
    if any(getattr(kind, name) is not getattr(PreTrainedTokenizerFast, name) for name in ("__call__", "_encode_plus")):
        return False
    try:
        other = _load_plain(base.location)
    except Exception:  # whatever hinders it, its own class has just loaded it
        return False
    return _traits(other) == _traits(tokenizer)


def _load_plain(folder: str, _trust_remote_code: bool = False) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of every class but its own
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder)
    finally:
        logging.set_verbosity(level)


def _traits(tokenizer: "PreTrainedTokenizerFast") -> tuple[object, ...]:
    """All that rendering and encoding ask a tokenizer for, its template aside."""
    added = sorted((number, str(token), token.special) for number, token in tokenizer.added_tokens_decoder.items())
    return (
        tokenizer.backend_tokenizer.to_str(),
        added,
        sorted(tokenizer.all_special_tokens),
        (tokenizer.bos_token, tokenizer.eos_token),
        tokenizer("a")["input_ids"],
    )


def _sample(folder: Path) -> list[list[Message]]:
    """The conversations of the first rows of some shards."""
    import pyarrow.parquet as pq

    shards = shard_paths(folder)
    chosen = shards[:: -(-len(shards) // _SHARDS)] if shards else []
    rows: list[list[Message]] = []
    for path in chosen:
        batches = pq.ParquetFile(vault.source(path)).iter_batches(batch_size=-(-_SAMPLE // len(chosen)), columns=["messages"])
        rows += [messages for batch in islice(batches, 1) for messages in batch.column("messages").to_pylist()]
    return rows


def _segments(renderer: Renderer, rows: Sequence[list[Message]]) -> Iterator[str]:
    """Texts as they are encoded, with the template's own parts."""
    notes = set(renderer.notes)
    for messages in rows:
        try:
            yield from (segment.text for segment in renderer.render(messages).segments)
        except TemplateError:
            continue
    renderer.notes = notes
