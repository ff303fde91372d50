"""From conversations to token ids, with a mark on every token that is learned: the assistant's turns and their ends."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tasks.batching import epoch_batches, fill
from tasks.contracts import Count, DatasetSplits, ModelRef, TokenizedDataset, TokenizedSplit, digest_of
from tasks.data.encoding import REFUSED, Encoder, Tokens, Written
from tasks.data.rows import Row, place_of, read_rows
from tasks.errors import DatasetError, ModelError
from tasks.models import PLAIN_TEMPLATE, load_tokenizer
from tasks.storage import folder_digest

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerFast

_NAMES = ("train", "validation", "test")
_BATCH = 1_000
_NOTHING_LEFT = "nothing_to_learn_after_cut"


def tokenize(
    splits: DatasetSplits,
    base: ModelRef,
    files: Mapping[str, Path],
    out: Path,
    uri: str,
    *,
    max_length: int,
    truncation: Literal["cut", "error"],
    batch_size: int,
    seed: int,
    golden_prompts: int = 20,
) -> TokenizedDataset:
    """Write `out`/train.parquet, validation.parquet, test.parquet, tokenizer/ and golden.jsonl.

    Args:
        splits: what is tokenized.
        base: the model whose tokenizer, chat template and vocabulary are used.
        files: split name -> its local Parquet file.
        out: folder to write to.
        uri: where `out` will lie.
        max_length: most tokens of a sequence; the model's own limit where that is lower.
        truncation: cut drops the end of what is too long, error names the rows.
        batch_size: sequences a batch, for the packing efficiency.
        seed: of the batches, for the packing efficiency.
        golden_prompts: how many prompts of test rows are kept for comparing exports.

    Raises:
        DatasetError: rows are too long, or a split has nothing to learn.
        ModelError: the tokenizer or its template cannot be used with this model.
    """
    tokenizer = load_tokenizer(base.location, base.trust_remote_code)
    template, source, reasons = _template(tokenizer, splits.task)
    limit = min(max_length, base.max_positions)
    if limit < max_length:
        reasons.append(f"max_length {limit} instead of {max_length}: the model has no more positions")
    encoder = Encoder(tokenizer, splits.task, limit)
    written = {name: _write_split(files[name], out / f"{name}.parquet", encoder, truncation) for name in _NAMES}
    _refuse(written, truncation, limit, base, splits)
    tokenizer.save_pretrained(str(out / "tokenizer"))
    tokenizer_sha256 = folder_digest(out / "tokenizer")
    _write_golden(out, encoder, golden_prompts)
    parts = {name: _part(name, written[name], uri) for name in _NAMES}
    template_sha256 = hashlib.sha256(template.encode()).hexdigest()
    lengths = written["train"].lengths
    return TokenizedDataset(
        name=splits.name,
        sha256=digest_of([*(parts[name].sha256 for name in _NAMES), tokenizer_sha256, template_sha256, limit, splits.task]),
        parent_sha256=splits.sha256,
        task=splits.task,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        packing_efficiency=fill(lengths, epoch_batches(lengths, batch_size, seed, 0)),
        tokenizer_uri=f"{uri}/tokenizer",
        tokenizer_sha256=tokenizer_sha256,
        template_sha256=template_sha256,
        template_source=source,
        golden_uri=f"{uri}/golden.jsonl",
        max_length=limit,
        reasons=(*reasons, *sorted(encoder.renderer.notes), *_refusals(written)),
    )


def _template(tokenizer: "PreTrainedTokenizerFast", task: str) -> tuple[str, str, list[str]]:
    """The template's text, where it is from, and why; a tokenizer without one is given the plain one."""
    reasons = []
    source = "the model's own"
    if not tokenizer.chat_template:
        tokenizer.chat_template, source = PLAIN_TEMPLATE, "plain"
        reasons.append("the tokenizer has no chat template, so the plain one is set")
    if task in ("text", "completion"):
        reasons.append(f"the task {task} is learned without a chat template")
    try:
        return str(tokenizer.get_chat_template()), source, reasons
    except ValueError as error:
        raise ModelError(f"The tokenizer has several chat templates and none is the default: {error}") from error


def _batches(path: Path) -> Iterator[list[Row]]:
    rows = read_rows(path)
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _schema() -> "pa.Schema":
    import pyarrow as pa

    tokens = [("input_ids", pa.list_(pa.int32())), ("supervised", pa.list_(pa.int8()))]
    return pa.schema(
        [("row", pa.int64()), *tokens, ("prompt", pa.string()), ("reference", pa.string()), ("group", pa.string())]
    )


def _write_split(source: Path, target: Path, encoder: Encoder, truncation: str) -> Written:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written, columns = Written(), _schema()
    with pq.ParquetWriter(target, columns, compression="zstd") as file:
        for batch in _batches(source):
            kept = [one for one in encoder.encode(batch, written) if _fits(one, encoder.limit, truncation, written)]
            records = [_record(one) for one in kept]
            for record in records:
                _count(record, written)
            file.write_table(pa.Table.from_pylist(records, schema=columns))
    return written


def _fits(one: Tokens, limit: int, truncation: str, written: Written) -> bool:
    """Cut a sequence to the limit; False where that leaves nothing to learn."""
    excess = len(one.ids) - limit
    if excess > 0:
        written.truncated_rows += 1
        written.truncated_tokens += excess
        if truncation == "error":
            written.too_long.append(f"{place_of(one.row)} ({len(one.ids)} tokens)")
        one.ids, one.learned = one.ids[:limit], one.learned[:limit]
    # The first token is predicted from nothing, so it teaches nothing.
    if any(one.learned[1:]):
        return True
    written.dropped[_NOTHING_LEFT] += 1
    return False


def _record(one: Tokens) -> dict[str, Any]:
    return {
        "row": one.row["row"], "input_ids": one.ids, "supervised": one.learned,
        "prompt": one.prompt, "reference": one.reference, "group": one.row["group"],
    }  # fmt: skip


def _count(record: Mapping[str, Any], written: Written) -> None:
    """Count a sequence and add its content to the split's hash."""
    written.lengths.append(len(record["input_ids"]))
    written.supervised += sum(record["supervised"])
    written.largest_id = max(written.largest_id, *record["input_ids"])
    texts = json.dumps([record["row"], len(record["input_ids"]), record["prompt"], record["reference"], record["group"]])
    written.hasher.update(texts.encode())
    written.hasher.update(np.asarray(record["input_ids"], dtype="<i4").tobytes())
    written.hasher.update(np.asarray(record["supervised"], dtype="i1").tobytes())


def _refuse(written: Mapping[str, Written], truncation: str, limit: int, base: ModelRef, splits: DatasetSplits) -> None:
    """Stop where rows are too long, tokens are unknown to the model, or a split has nothing to learn."""
    too_long = [place for one in written.values() for place in one.too_long]
    if too_long and truncation == "error":
        shown = ", ".join(too_long[:8]) + (f" and {len(too_long) - 8} more" if len(too_long) > 8 else "")
        raise DatasetError(
            f"{len(too_long)} rows are longer than {limit} tokens: {shown}. Raise training.max_length, shorten the "
            f"rows, or set data.truncation to cut."
        )
    largest = max(one.largest_id for one in written.values())
    if largest >= base.vocabulary:
        raise ModelError(
            f"{base.uri}: the tokenizer gives token {largest}, but the model has embeddings for "
            f"{base.vocabulary} alone. Use the tokenizer that belongs to the model."
        )
    rows = {"train": splits.train.rows, "validation": splits.validation.rows, "test": splits.test.rows}
    for name, one in written.items():
        if rows[name] and not one.lengths:
            _refuse_empty(name, rows[name], one, limit, base)


def _refuse_empty(name: str, rows: int, one: Written, limit: int, base: ModelRef) -> None:
    if one.dropped[REFUSED] == rows:
        raise ModelError(f"{base.uri}: the chat template can use no row of {name}. {one.refusal}")
    raise DatasetError(
        f"No row of {name} has anything to learn within {limit} tokens: the prompts alone fill them ({rows} rows). "
        f"Raise training.max_length or shorten the prompts."
    )


def _refusals(written: Mapping[str, Written]) -> list[str]:
    """A sentence for each split in which the template refused rows."""
    return [
        f"{one.dropped[REFUSED]} rows of {name} left out, the first {one.refusal}"
        for name, one in written.items()
        if one.refusal
    ]


def _part(name: str, one: Written, uri: str) -> TokenizedSplit:
    return TokenizedSplit(
        uri=f"{uri}/{name}.parquet",
        sha256=one.hasher.hexdigest(),
        sequences=len(one.lengths),
        tokens=sum(one.lengths),
        supervised_tokens=one.supervised,
        truncated_rows=one.truncated_rows,
        truncated_tokens=one.truncated_tokens,
        dropped=tuple(Count(reason=reason, rows=count) for reason, count in sorted(one.dropped.items())),
        longest=max(one.lengths, default=0),
    )


def _write_golden(out: Path, encoder: Encoder, count: int) -> None:
    """The first prompts of test rows that leave room for an answer, with their token ids, as JSON lines."""
    import pyarrow.parquet as pq

    prompts = pq.read_table(out / "test.parquet", columns=["prompt"])["prompt"].to_pylist()
    lines: list[str] = []
    for prompt in dict.fromkeys(prompts):
        if len(lines) == count:
            break
        ids = encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if 0 < len(ids) < encoder.limit:
            lines.append(json.dumps({"prompt": prompt, "input_ids": ids}, ensure_ascii=False) + "\n")
    (out / "golden.jsonl").write_text("".join(lines), encoding="utf-8")
