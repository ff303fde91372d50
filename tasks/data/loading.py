"""From addresses to rows: find the files, the format and the shape, and write every row as a conversation."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from tasks.contracts import RawDataset, Shard, SourceFile, digest_of
from tasks.data import files as reading
from tasks.data import formats, shapes
from tasks.data.files import Options, Survey
from tasks.data.formats.parts import WHOLE, Part
from tasks.data.rows import Message, answer_of, prompt_of
from tasks.data.running import Facts, Run, Told, each, in_turn, silent
from tasks.data.shapes.values import Fit
from tasks.data.shards import SHARD_BYTES, SHARD_ROWS, digest, shard_name, shard_paths, write_shard
from tasks.data.spec import DataSpec
from tasks.errors import DatasetError, unknown_name

Task = Literal["chat", "completion", "classification", "qa", "text"]
_FIRST_ROWS = 200
PART_BYTES = 64 << 20


@dataclass(frozen=True)
class PeekedFile:
    """What the first rows of one file show."""

    address: str
    weight: float
    format: str
    columns: tuple[str, ...]
    shape: str
    fit: Fit
    messages: tuple[tuple[Message, ...], ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Peek:
    """What the first rows of every file show: nothing is written."""

    files: tuple[PeekedFile, ...]
    format: str
    columns: tuple[str, ...]
    shape: str
    mapping: dict[str, str]
    confidence: float
    reason: str
    task: Task
    messages: tuple[tuple[Message, ...], ...]


def source_digests(spec: DataSpec, options: Options) -> list[tuple[str, str, int]]:
    """Address, sha256 and bytes of every input file.

    Raises:
        DatasetError: naming every address that cannot be read.
    """
    return [(address, *reading.digest(address, options)) for address, _ in _surveyed(spec, options).files]


def peek(spec: DataSpec, options: Options, rows: int = _FIRST_ROWS) -> Peek:
    """What the data are, from the first rows of each file.

    Raises:
        DatasetError: anything that would stop loading, as far as these rows show it; all files' problems at once.
    """
    files, problems = [], []
    survey = _surveyed(spec, options)
    for address, weight in survey.files:
        try:
            files.append(_peek_file(address, weight, spec, options, rows))
        except DatasetError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError("\n".join(problems))
    columns = tuple(dict.fromkeys(column for file in files for column in file.columns))
    _check_overrides(spec.columns.named(), columns)
    messages = tuple(row for file in files for row in file.messages)
    _check_contents(files, messages)
    return Peek(
        files=tuple(files),
        format=" + ".join(dict.fromkeys(file.format for file in files)),
        columns=columns,
        shape=" + ".join(dict.fromkeys(file.shape for file in files)),
        mapping=_merged(files),
        confidence=min(file.fit.confidence for file in files),
        reason=". ".join(dict.fromkeys([*(file.fit.reason for file in files), *survey.notes])),
        task=_task(files, spec),
        messages=messages,
    )


def load(
    name: str,
    spec: DataSpec,
    out: Path,
    uri: str,
    options: Options,
    digests: Sequence[tuple[str, str, int]] | None = None,
    run: Run = in_turn,
    progress: Told = silent,
    shard_rows: int = 0,
) -> RawDataset:
    """Write every row to shards in `out`/rows, mapped to a conversation; what was found.

    The sha256 covers the rows' content (source, line, messages), the task and the weights, not the Parquet bytes.

    Args:
        name: of the data.
        spec: where they are and what they mean.
        out: folder to write to; what an earlier process finished there is not done again.
        uri: where `out` will lie.
        options: for fsspec, by protocol.
        digests: of `source_digests`, where they are known.
        run: in one process or in several.
        progress: told parts read and parts in all.
        shard_rows: rows of a shard; 0: 50,000.

    Raises:
        DatasetError: the data cannot be found, read or mapped.
    """
    seen = peek(spec, options)
    jobs = parts_of(seen, spec, options, out, shard_rows or SHARD_ROWS)
    found = _until(spec.maximum_rows, jobs, out) if spec.maximum_rows else each(run, load_part, jobs, out / "marks", progress)
    sizes = {address: (sha256, size) for address, sha256, size in digests or source_digests(spec, options)}
    counts, literals, texts = Counter[int](), Counter[int](), Counter[int]()
    for job, facts in zip(jobs, found, strict=False):
        counts[job.source] += sum(shard["rows"] for shard in facts["shards"])
        literals[job.source] += facts["literals"]
        texts[job.source] += facts["texts"]
    files = [
        SourceFile(
            address=file.address, format=file.format, sha256=sizes[file.address][0], bytes=sizes[file.address][1],
            rows=counts[number], weight=file.weight, escaped=literals[number] / max(1, texts[number]),
        )
        for number, file in enumerate(seen.files)
    ]  # fmt: skip
    shards = tuple(Shard(**shard) for facts in found for shard in facts["shards"])
    shutil.rmtree(out / "marks", ignore_errors=True)
    return RawDataset(
        name=name,
        uri=uri,
        sha256=digest_of([[shard.sha256 for shard in shards], seen.task, [file.weight for file in seen.files]]),
        format=seen.format,
        shape=seen.shape,
        task=seen.task,
        rows=sum(shard.rows for shard in shards),
        bytes=sum(path.stat().st_size for path in shard_paths(out / "rows")),
        columns=seen.columns,
        mapping=seen.mapping,
        mapping_confidence=seen.confidence,
        mapping_reason=seen.reason,
        files=tuple(files),
        shards=shards,
    )


@dataclass(frozen=True)
class PartJob:
    """A file, or a part of a large one, that becomes shards.

    Args:
        number: its place among all parts.
        source: the number of its file.
        file: as it was peeked at, without its rows.
        part: lines of a large file, or all of it.
        system: put before conversations without a system message.
        options: for fsspec, by protocol.
        out: folder of the shards.
        shard_rows: rows of a shard.
        limit: the most rows; 0: all.
    """

    number: int
    source: int
    file: PeekedFile
    part: Part
    system: str
    options: Options = field(repr=False)  # they may hold secrets, and workers show their jobs where one fails
    out: Path
    shard_rows: int
    limit: int = 0

    @property
    def name(self) -> str:
        """Its mark's name."""
        return f"part-{self.number:05d}"

    @property
    def outputs(self) -> list[Path]:
        """The shards that are there."""
        return sorted(self.out.glob(f"{self.name}-*.parquet"))


def parts_of(seen: Peek, spec: DataSpec, options: Options, out: Path, shard_rows: int) -> list[PartJob]:
    """All files, large ones of lines in several parts."""
    jobs: list[PartJob] = []
    for source, file in enumerate(seen.files):
        lean = replace(file, messages=(), places=())
        together = shapes.spans_lines(_shape_named(file.shape))
        parts = [WHOLE] if together else formats.parts(file.address, options, PART_BYTES)
        jobs += [
            PartJob(len(jobs) + at, source, lean, part, spec.system_prompt, options, out / "rows", shard_rows)
            for at, part in enumerate(parts)
        ]
    return jobs


def load_part(job: PartJob) -> Facts:
    """Write the shards of one part; the rows and the content hash of each."""
    for path in job.outputs:
        path.unlink()
    shape, mapping = _shape_named(job.file.shape), job.file.fit.mapping
    writer = _Shards(job)
    rows = shapes.gathered(shape, job.file.address, formats.read_part(job.file.address, job.options, job.part))
    for line, raw in islice(rows, job.limit or None):
        writer.add(line, _conversation(shape, raw, mapping, job.system))
    writer.flush()
    return {"shards": writer.written, "literals": writer.literals, "texts": writer.texts}


def _until(limit: int, jobs: Sequence[PartJob], out: Path) -> list[Facts]:
    """Part after part, until there are so many rows."""
    found: list[Facts] = []
    left = limit
    for job in jobs:
        if left <= 0:
            break
        (facts,) = each(in_turn, load_part, [replace(job, limit=left)], out / "marks")
        left -= sum(shard["rows"] for shard in facts["shards"])
        found.append(facts)
    return found


class _Shards:
    """Gathers the rows of a part and writes them, a shard at a time."""

    def __init__(self, job: PartJob) -> None:
        self.job, self.written, self.literals, self.texts = job, list[Facts](), 0, 0
        self._begin()

    def _begin(self) -> None:
        self.lines, self.lengths, self.size = list[int](), list[int](), 0
        self.roles, self.contents, self.learn = list[str](), list[str](), list[bool]()

    def add(self, line: int, messages: Sequence[Message]) -> None:
        """Add a row."""
        self.lines.append(line)
        self.lengths.append(len(messages))
        for message in messages:
            content = message["content"]
            self.roles.append(message["role"])
            self.contents.append(content)
            self.learn.append(message.get("learn") is not False)
            self.size += len(content)
        if len(self.lines) >= self.job.shard_rows or self.size >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if not self.lines:
            return
        import polars as pl
        import pyarrow as pa

        from tasks.data.repairs import holds_literal_newlines

        self.literals += int(holds_literal_newlines(pl.Series(self.contents, dtype=pl.String)).sum())
        self.texts += len(self.contents)
        count = len(self.lines)
        offsets = pa.array([0, *accumulate(self.lengths)], pa.int32())
        flat = pa.StructArray.from_arrays(
            [pa.array(self.roles, pa.string()), pa.array(self.contents, pa.string()), pa.array(self.learn, pa.bool_())],
            names=["role", "content", "learn"],
        )
        address = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([self.job.file.address]))
        table = pa.table(
            {
                "file": address.cast(pa.string()),
                "line": pa.array(self.lines, pa.int64()),
                "source": pa.array([self.job.source] * count, pa.int64()),
                "messages": pa.ListArray.from_arrays(offsets, flat),
            }
        )
        name = shard_name(self.job.number, len(self.written))
        write_shard(self.job.out / name, table)
        self.written.append({"name": name, "rows": count, "sha256": digest(table.drop_columns(["file"]))})
        self._begin()


def _surveyed(spec: DataSpec, options: Options) -> Survey:
    survey = reading.survey(spec.sources(), options, formats.SUFFIXES)
    if not survey.files:
        raise DatasetError("data.source names no file. Give a file, a folder, a glob or a list of them.")
    return survey


def _shape_named(kind: str) -> ModuleType:
    return next(shape for shape in shapes.SHAPES if kind == shape.KIND)


def _conversation(shape: ModuleType, raw: Mapping[str, Any], mapping: Mapping[str, str], system: str) -> list[Message]:
    messages: list[Message] = shape.to_messages(raw, mapping)
    if system and shape.TASK != "text" and not any(message["role"] == "system" for message in messages):
        return [{"role": "system", "content": system}, *messages]
    return messages


def _peek_file(address: str, weight: float, spec: DataSpec, options: Options, rows: int) -> PeekedFile:
    module = formats.format_of(address, options)
    first = list(islice(module.read(address, options), rows))
    if not first:
        raise DatasetError(f"{address} holds no rows.")
    raws = [raw for _, raw in first]
    columns = tuple(dict.fromkeys(str(key) for raw in raws for key in raw))
    note = formats.note_of(address, options)
    shape, fit = shapes.find_shape(address, columns, spec.columns.named(), raws, spec.task, note=note)
    first = list(shapes.gathered(shape, address, iter(first), whole=len(first) < rows))
    messages = tuple(tuple(_conversation(shape, raw, fit.mapping, spec.system_prompt)) for _, raw in first)
    places = tuple(f"{address} line {line}" for line, _ in first)
    return PeekedFile(address, weight, module.KIND, columns, shape.KIND, fit, messages, places)


def _check_overrides(overrides: Mapping[str, str], columns: tuple[str, ...]) -> None:
    problems = [
        f"data.columns.{ours}: {unknown_name('column', theirs, columns)}"
        for ours, theirs in overrides.items()
        if theirs not in columns
    ]
    if problems:
        raise DatasetError("\n".join(problems))


def _check_contents(files: list[PeekedFile], messages: tuple[tuple[Message, ...], ...]) -> None:
    where = ", ".join(files[0].places[:3])
    count = len(messages)
    if not any(answer_of(row).strip() for row in messages):
        raise DatasetError(
            f"Found rows whose answer is empty in every case: {count} of the first {count} rows, e.g. {where}. "
            f"Mapped: {files[0].fit.reason}. Name the column with the answers in `data.columns`."
        )
    if all(file.shape != "text" for file in files) and not any(prompt_of(row).strip() for row in messages):
        raise DatasetError(
            f"Found rows whose prompt is empty in every case: {count} of the first {count} rows, e.g. {where}. "
            f"Mapped: {files[0].fit.reason}. Name the column with the prompts in `data.columns`."
        )


def _merged(files: list[PeekedFile]) -> dict[str, str]:
    """Our field -> their column; where files differ, the field is named with its shape."""
    merged: dict[str, str] = {}
    for file in files:
        for ours, theirs in file.fit.mapping.items():
            same = merged.get(ours, theirs) == theirs
            merged[ours if same else f"{file.shape}.{ours}"] = theirs
    return merged


def _task(files: list[PeekedFile], spec: DataSpec) -> Task:
    if spec.task != "auto":
        return spec.task
    found = {str(_shape_named(file.shape).TASK) for file in files}
    if len(found) == 1:
        return cast(Task, found.pop())
    if "text" in found:
        listed = "; ".join(f"{file.address}: {file.shape}" for file in files)
        raise DatasetError(f"Plain text and conversations cannot be mixed in one dataset ({listed}). Split the sources.")
    return "chat"
