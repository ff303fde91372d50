"""From addresses to rows: find the files, the format and the shape, and write every row as a conversation."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from tasks.contracts import RawDataset, SourceFile, digest_of
from tasks.data import formats, shapes
from tasks.data.files import Options, digest, expand
from tasks.data.rows import Message, RowWriter, answer_of, prompt_of, schema
from tasks.data.shapes.values import Fit
from tasks.data.spec import DataSpec
from tasks.errors import DatasetError, unknown_name

Task = Literal["chat", "completion", "classification", "qa", "text"]
_FIRST_ROWS = 200


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
    return [(address, *digest(address, options)) for address, _ in _expanded(spec, options)]


def peek(spec: DataSpec, options: Options, rows: int = _FIRST_ROWS) -> Peek:
    """What the data are, from the first rows of each file.

    Raises:
        DatasetError: anything that would stop loading, as far as these rows show it; all files' problems at once.
    """
    files, problems = [], []
    for address, weight in _expanded(spec, options):
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
        reason=". ".join(dict.fromkeys(file.fit.reason for file in files)),
        task=_task(files, spec),
        messages=messages,
    )


def load(
    name: str,
    spec: DataSpec,
    out: Path,
    uri: str,
    options: Options,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RawDataset:
    """Write every row to `out`/rows.parquet; what was found; `progress` is told files done and files in all.

    The sha256 covers the rows' content (source, line, messages), the task and the weights, not the Parquet bytes.

    Raises:
        DatasetError: the data cannot be found, read or mapped.
    """
    seen = peek(spec, options)
    counts = [0] * len(seen.files)
    at, path = 0, out / "rows.parquet"
    with RowWriter(path, schema()) as writer:
        for row in islice(_rows(seen, spec, options), spec.maximum_rows or None):
            counts[row["source"]] += 1
            writer.write(row)
            if row["source"] != at:
                at = row["source"]
                progress(at, len(seen.files))
    sources = []
    for file, count in zip(seen.files, counts, strict=True):
        sha256, size = digest(file.address, options)
        sources.append(
            SourceFile(address=file.address, format=file.format, sha256=sha256, bytes=size, rows=count, weight=file.weight)
        )
    progress(len(sources), len(sources))
    return RawDataset(
        name=name,
        uri=uri,
        sha256=digest_of([writer.sha256(), seen.task, [file.weight for file in seen.files]]),
        format=seen.format,
        shape=seen.shape,
        task=seen.task,
        rows=writer.rows,
        bytes=path.stat().st_size,
        columns=seen.columns,
        mapping=seen.mapping,
        mapping_confidence=seen.confidence,
        mapping_reason=seen.reason,
        files=tuple(sources),
    )


def _expanded(spec: DataSpec, options: Options) -> list[tuple[str, float]]:
    files = expand(spec.sources(), options, formats.SUFFIXES)
    if not files:
        raise DatasetError("data.source names no file. Give a file, a folder, a glob or a list of them.")
    return files


def _rows(seen: Peek, spec: DataSpec, options: Options) -> Iterator[dict[str, Any]]:
    number = 0
    for source, file in enumerate(seen.files):
        shape = _shape_named(file.shape)
        for line, raw in formats.read(file.address, options):
            messages = _conversation(shape, raw, file.fit.mapping, spec.system_prompt)
            yield {"row": number, "file": file.address, "line": line, "source": source, "messages": messages}
            number += 1


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
    shape, fit = shapes.find_shape(address, columns, spec.columns.named(), raws, spec.task)
    messages = tuple(tuple(_conversation(shape, raw, fit.mapping, spec.system_prompt)) for raw in raws)
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
