"""From conversations to token ids, with a mark on every token that is learned: the assistant's turns and their ends.

With the setup that was decided once, each shard is a pure function of its rows, in whatever process.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.batching import epoch_batches, fill
from tasks.contracts import Count, DatasetSplits, ModelRef, TokenizedDataset, TokenizedSplit, digest_of
from tasks.data.encoding import NOTHING, REFUSED, Block, Encoder
from tasks.data.fast_tokens import joined
from tasks.data.rows import Message
from tasks.data.running import Facts, Run, Told, each, in_turn, silent
from tasks.data.shards import shard_paths, write_shard
from tasks.data.token_facts import Counting, ShardTokens, all_lengths, summed
from tasks.data.token_setup import TokenizeSetup, decide, encoder_for
from tasks.data.truncation import Stretch, Truncation, fit, halves
from tasks.encryption import vault
from tasks.errors import DatasetError, LedgerError, ModelError
from tasks.models import PLAIN_TEMPLATE, load_tokenizer
from tasks.storage import folder_digest

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerFast

NOTHING_LEFT = "nothing_to_learn_after_cut"
_NAMES = ("train", "validation", "test")
_BATCH = 2_000  # rows that are worked on at once
_GROUP = 1 << 22  # tokens that are written at once


@dataclass(frozen=True)
class TokenizeJob:
    """One shard of one split."""

    split: str
    path_in: Path
    path_out: Path
    setup: TokenizeSetup

    @property
    def name(self) -> str:
        """Its own name among all jobs."""
        return f"{self.split}-{self.path_in.stem}"

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The sequences, and the dropped rows where there are any."""
        dropped = quarantine_of(self.path_out)
        return (self.path_out, dropped) if dropped.exists() else (self.path_out,)


def tokenize(
    splits: DatasetSplits,
    base: ModelRef,
    files: Mapping[str, Path],
    out: Path,
    uri: str,
    *,
    max_length: int,
    truncation: Truncation,
    batch_size: int,
    seed: int,
    golden_prompts: int = 20,
    template: str = "",
    run: Run = in_turn,
    progress: Told = silent,
) -> TokenizedDataset:
    """Write the shards of `out`/train, validation and test, quarantine/, tokenizer/ and golden.jsonl.

    Args:
        splits: what is tokenized.
        base: the model whose tokenizer, chat template and vocabulary are used.
        files: split name -> the folder of its shards.
        out: folder to write to; shards that an earlier process finished there are not done again.
        uri: where `out` will lie.
        max_length: most tokens of a sequence; the model's own limit where that is lower.
        truncation: of longer rows, cut drops the end, split makes several sequences, error names them and stops.
        batch_size: sequences a batch, for the packing efficiency.
        seed: of the batches, for the packing efficiency.
        golden_prompts: how many prompts of test rows are kept for comparing exports.
        template: a chat template that is used instead of the model's own; "" is none.
        run: in one process or in several.
        progress: told shards done and shards in all.

    Raises:
        DatasetError: rows are too long, or a split has nothing to learn.
        LedgerError: rows were lost, which is a defect.
        ModelError: the tokenizer or its template cannot be used with this model.
    """
    tokenizer = load_tokenizer(base.location, base.trust_remote_code)
    text, source, reasons = _template(tokenizer, splits.task, template)
    limit = min(max_length, base.max_positions)
    if limit < max_length:
        reasons.append(f"max_length {limit} instead of {max_length}: the model has no more positions")
    setup, found = decide(tokenizer, base, splits.task, limit, truncation, [files[name] for name in _NAMES])
    facts = _all_shards(setup, files, out, run, progress)
    _refuse(facts, truncation, limit, base, splits)
    tokenizer.save_pretrained(str(out / "tokenizer"))
    tokenizer_sha256 = folder_digest(out / "tokenizer")
    _write_golden(out, tokenizer, limit, golden_prompts)
    _tidy(out)
    lengths = all_lengths(facts["train"])
    efficiency = fill(lengths, epoch_batches(lengths, batch_size, seed, 0))
    notes = sorted({note for one in facts.values() for note in one.notes})
    template_of = hashlib.sha256(text.encode()).hexdigest(), source
    return _value(splits, facts, uri, limit, efficiency, tokenizer_sha256, template_of, [*reasons, *found, *notes])


def _value(
    splits: DatasetSplits,
    facts: Mapping[str, ShardTokens],
    uri: str,
    limit: int,
    efficiency: float,
    tokenizer_sha256: str,
    template: tuple[str, str],
    reasons: Sequence[str],
) -> TokenizedDataset:
    """The value that names what was written; `template` is the template's hash and where it is from."""
    parts = {name: _part(name, facts[name], uri) for name in _NAMES}
    return TokenizedDataset(
        name=splits.name,
        sha256=digest_of([*(parts[name].sha256 for name in _NAMES), tokenizer_sha256, template[0], limit, splits.task]),
        parent_sha256=splits.sha256,
        task=splits.task,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        packing_efficiency=efficiency,
        tokenizer_uri=f"{uri}/tokenizer",
        tokenizer_sha256=tokenizer_sha256,
        template_sha256=template[0],
        template_source=template[1],
        golden_uri=f"{uri}/golden.jsonl",
        quarantine_uri=f"{uri}/quarantine" if any(part.dropped for part in parts.values()) else "",
        max_length=limit,
        reasons=(*reasons, *_sentences(facts)),
    )


def tokenize_job(job: TokenizeJob) -> Facts:
    """Tokenize one shard; its facts as JSON can hold them."""
    return tokenize_shard(job.path_in, job.path_out, job.setup).model_dump(mode="json")


def tokenize_shard(path_in: Path, path_out: Path, setup: TokenizeSetup) -> ShardTokens:
    """Write the sequences of a shard of rows to `path_out`, and what was dropped to `quarantine_of(path_out)`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoder = encoder_for(setup)
    encoder.renderer.notes = set()
    counting, rows, dropped = Counting(), 0, list["pa.Table"]()
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["group"]}
    given = vault.source(path_in)
    with vault.writing(path_out) as to, pq.ParquetFile(given) as source, pq.ParquetWriter(to, _schema(), **options) as file:
        waiting, tokens = list["pa.RecordBatch"](), 0
        for batch in source.iter_batches(batch_size=_BATCH):
            table = pa.Table.from_batches([batch])
            written, gone = _sequences(table, encoder, setup, counting)
            counting.written(written)
            rows += len(table)
            dropped += [gone] if len(gone) else []
            waiting.append(written)
            tokens += len(written.column("input_ids").values)
            if tokens >= _GROUP:
                file.write_table(pa.Table.from_batches(waiting))
                waiting, tokens = [], 0
        file.write_table(pa.Table.from_batches(waiting, schema=_schema()))
        if dropped:
            write_shard(quarantine_of(path_out), pa.concat_tables(dropped))
    return counting.value(rows, encoder.renderer.notes)


def quarantine_of(path_out: Path) -> Path:
    """Where the rows lie that a shard of sequences has dropped: the columns of the rows and reason."""
    return path_out.parent.parent / "quarantine" / f"part-{path_out.parent.name}-{path_out.name.removeprefix('part-')}"


def _schema() -> "pa.Schema":
    import pyarrow as pa

    tokens = [("input_ids", pa.list_(pa.int32())), ("supervised", pa.list_(pa.int8()))]
    return pa.schema(
        [("row", pa.int64()), *tokens, ("prompt", pa.string()), ("reference", pa.string()), ("group", pa.string())]
    )


def _sequences(
    table: "pa.Table", encoder: Encoder, setup: TokenizeSetup, counting: Counting
) -> tuple["pa.RecordBatch", "pa.Table"]:
    """The sequences of some rows, and the rows that gave none with the reason."""
    import pyarrow as pa

    block, places, refused = encoder.encode(table)
    why = {refusal.place: refusal.reason for refusal in refused}
    said = next((f"{_place(table, one.place)}: {vault.told(one.said)}" for one in refused if one.reason == REFUSED), "")
    counting.refusal = counting.refusal or said
    learns = block.learns()
    pairs: list[tuple[int, Stretch]] = []
    for row, (place, length) in enumerate(zip(places, block.lengths.tolist(), strict=True)):
        if length > setup.limit:
            found = _fitted(table, place, Stretch(block, row, 0, length), encoder, setup, counting)
        else:
            found = [Stretch(block, row, 0, length)] if learns[row] else []
        if not found:
            why[place] = NOTHING_LEFT if length > setup.limit else NOTHING
        pairs += [(place, stretch) for stretch in found]
    counting.add("rows", len(table) - len(why))
    for place, reason in sorted(why.items()):
        counting.drop(reason, _place(table, place))
    gone = table.take(pa.array(sorted(why), pa.int64()))
    reasons = pa.array([reason for _, reason in sorted(why.items())], pa.string())
    return _record(block, pairs, table, encoder), gone.append_column("reason", reasons)


def _fitted(
    table: "pa.Table", place: int, whole: Stretch, encoder: Encoder, setup: TokenizeSetup, counting: Counting
) -> list[Stretch]:
    """The sequences of a row that is longer than the limit, whose cost is counted."""
    counting.long(_place(table, place), whole.end)
    messages: list[Message] = table.column("messages")[place].as_py()
    fitted = fit(whole.block, whole.row, messages, encoder, setup.limit, setup.truncation)
    counting.add("truncated_rows", int(fitted.lost > 0))
    counting.add("truncated_tokens", fitted.lost)
    counting.add("split_rows", int(len(fitted.stretches) > 1))
    counting.add("repeated_tokens", fitted.repeated)
    return fitted.stretches


def _record(block: Block, pairs: Sequence[tuple[int, Stretch]], table: "pa.Table", encoder: Encoder) -> "pa.RecordBatch":
    """Sequences as columns."""
    import pyarrow as pa

    if len(pairs) == len(block.rendered) and all(one.block is block and one.is_whole() for _, one in pairs):
        ids, marks, bounds = block.ids, block.marks, block.bounds
    else:
        parts = [one.tokens() for _, one in pairs]
        ids, bounds = joined([part for part, _ in parts])
        marks = np.concatenate([np.zeros(0, np.int8), *(part for _, part in parts)])
    places = pa.array([place for place, _ in pairs], pa.int64())
    offsets = pa.array(bounds.astype(np.int32))
    if encoder.renderer.task == "text":
        texts = [halves(one, encoder) for _, one in pairs]
    else:
        texts = [one.block.rendered[one.row][1:] for _, one in pairs]
    has_group = "group" in table.column_names
    columns = {
        "row": table.column("row").take(places).combine_chunks(),
        "input_ids": pa.ListArray.from_arrays(offsets, pa.array(ids, pa.int32())),
        "supervised": pa.ListArray.from_arrays(offsets, pa.array(marks, pa.int8())),
        "prompt": pa.array([prompt for prompt, _ in texts], pa.string()),
        "reference": pa.array([reference for _, reference in texts], pa.string()),
        "group": pa.array(table.column("group").take(places).to_pylist() if has_group else [""] * len(places), pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=_schema())


def _place(table: "pa.Table", place: int) -> str:
    return f"{table.column('file')[place].as_py()} line {table.column('line')[place].as_py()}"


def _template(tokenizer: "PreTrainedTokenizerFast", task: str, chosen: str) -> tuple[str, str, list[str]]:
    """The template's text, where it is from, and why; a tokenizer without one is given the plain one."""
    reasons, source = [], "the model's own"
    if chosen:
        tokenizer.chat_template, source = chosen, "chosen"
        reasons.append("the chosen chat template is used instead of the model's own")
    elif not tokenizer.chat_template:
        tokenizer.chat_template, source = PLAIN_TEMPLATE, "plain"
        reasons.append("the tokenizer has no chat template, so the plain one is set")
    if task in ("text", "completion"):
        reasons.append(f"the task {task} is learned without a chat template")
    try:
        return str(tokenizer.get_chat_template()), source, reasons
    except ValueError as error:
        raise ModelError(f"The tokenizer has several chat templates and none is the default: {error}") from error


def _all_shards(setup: TokenizeSetup, files: Mapping[str, Path], out: Path, run: Run, progress: Told) -> dict[str, ShardTokens]:
    """The facts of each split; what is tokenized is there whole before its mark is."""
    jobs = [TokenizeJob(name, path, out / name / path.name, setup) for name in _NAMES for path in shard_paths(files[name])]
    for name in _NAMES:
        (out / name).mkdir(parents=True, exist_ok=True)
    found = [ShardTokens.model_validate(facts) for facts in each(run, tokenize_job, jobs, out / "work", progress)]
    return {name: summed([one for job, one in zip(jobs, found, strict=True) if job.split == name]) for name in _NAMES}


def _tidy(out: Path) -> None:
    """Remove the marks, and what killed processes left unfinished."""
    shutil.rmtree(out / "work", ignore_errors=True)
    for left in (*out.glob("*/.part-*.new"), *out.glob(".golden.jsonl.*.new")):
        left.unlink()


def _refuse(
    facts: Mapping[str, ShardTokens], truncation: Truncation, limit: int, base: ModelRef, splits: DatasetSplits
) -> None:
    """Stop where rows are too long or lost, tokens are unknown to the model, or a split has nothing to learn."""
    too_long = sum(one.long_rows for one in facts.values())
    if too_long and truncation == "error":
        places = [place for one in facts.values() for place in one.too_long]
        shown = ", ".join(places) + (f" and {too_long - len(places)} more" if too_long > len(places) else "")
        raise DatasetError(
            f"{too_long} rows are longer than {limit} tokens: {shown}. Raise training.max_length, shorten the rows, or set "
            f"data.truncation to cut or split."
        )
    largest = max(one.largest_id for one in facts.values())
    if largest >= base.vocabulary:
        raise ModelError(
            f"{base.uri}: the tokenizer gives token {largest}, but the model has embeddings for "
            f"{base.vocabulary} alone. Use the tokenizer that belongs to the model."
        )
    for name, one in facts.items():
        rows = {"train": splits.train.rows, "validation": splits.validation.rows, "test": splits.test.rows}[name]
        if one.lost_rows or one.rows_in != rows:
            raise LedgerError(
                f"{name}: {rows} rows should have been tokenized, {one.rows_in} were read, {one.rows} gave sequences and "
                f"{one.rows_in - one.rows - one.lost_rows} were dropped by a reason."
            )
        if rows and not one.sequences:
            _refuse_empty(name, one, limit, base)


def _refuse_empty(name: str, one: ShardTokens, limit: int, base: ModelRef) -> None:
    dropped = {part.reason: part.rows for part in one.dropped}
    if dropped.get(REFUSED) == one.rows_in:
        raise ModelError(f"{base.uri}: the chat template can use no row of {name}. {one.refusal}")
    if dropped.get(NOTHING_LEFT):
        raise DatasetError(
            f"No row of {name} has anything to learn within {limit} tokens: the prompts alone fill them ({one.rows_in} rows). "
            f"Raise training.max_length or shorten the prompts."
        )
    raise DatasetError(
        f"No row of {name} has an answer to learn ({one.rows_in} rows, the first {one.dropped[0].places[0]}). "
        f"Rows need a turn of the assistant that the data do not mark as context alone."
    )


def _sentences(facts: Mapping[str, ShardTokens]) -> Iterator[str]:
    """What was left out or divided in each split, with examples."""
    for name, one in facts.items():
        for part in one.dropped:
            said = one.refusal if part.reason == REFUSED else ", ".join(part.places)
            yield f"{part.rows} rows of {name} left out ({part.reason}), the first {said}"
        if one.split_rows:
            yield (
                f"{one.split_rows} rows of {name} divided, {one.sequences - one.rows} sequences more than rows, "
                f"{one.repeated_tokens} tokens repeated"
            )


def _part(name: str, one: ShardTokens, uri: str) -> TokenizedSplit:
    return TokenizedSplit(
        uri=f"{uri}/{name}",
        sha256=one.sha256,
        sequences=one.sequences,
        tokens=one.tokens,
        supervised_tokens=one.supervised,
        truncated_rows=one.truncated_rows,
        truncated_tokens=one.truncated_tokens,
        dropped=tuple(Count(reason=part.reason, rows=part.rows) for part in one.dropped),
        longest=one.lengths[-1][0] if one.lengths else 0,
    )


def _write_golden(out: Path, tokenizer: "PreTrainedTokenizerFast", limit: int, count: int) -> None:
    """The first prompts of test rows that leave room for an answer, with their token ids, as JSON lines."""
    lines: dict[str, str] = {}
    for prompt in _prompts(out / "test"):
        if len(lines) == count:
            break
        if prompt not in lines:
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            if 0 < len(ids) < limit:
                lines[prompt] = json.dumps({"prompt": prompt, "input_ids": ids}, ensure_ascii=False) + "\n"
    vault.write(out / "golden.jsonl", "".join(lines.values()).encode())


def _prompts(folder: Path) -> Iterator[str]:
    import pyarrow.parquet as pq

    for path in shard_paths(folder):
        for batch in pq.ParquetFile(vault.source(path)).iter_batches(batch_size=_BATCH, columns=["prompt"]):
            yield from batch.column("prompt").to_pylist()
