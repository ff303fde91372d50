"""The data's version: what decided them and the hashes of what came of it."""

import platform
from importlib.metadata import version

from tasks.contracts import CleanDataset, DatasetManifest, DatasetSplits, RawDataset, TokenizedDataset, digest_of
from tasks.data.spec import DataSpec

_LIBRARIES = (
    "tuneflow", "numpy", "polars", "pyarrow", "pandas", "ftfy", "tiktoken", "tokenizers", "transformers", "great-expectations",
)  # fmt: skip
_NOT_CONTENT = {"source", "access", "encryption"}  # where rows lie and how they are opened


def manifest_of(
    spec: DataSpec,
    max_length: int,
    seed: int,
    raw: RawDataset,
    clean: CleanDataset,
    splits: DatasetSplits,
    tokens: TokenizedDataset,
) -> DatasetManifest:
    """The manifest of prepared data.

    Args:
        spec: what was asked.
        max_length: tokens of the longest sequence that was asked for.
        seed: of the splits.
        raw: rows as read.
        clean: rows as cleaned.
        splits: the rows of each split.
        tokens: their sequences.
    """
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    shards = {"raw": raw.shards, "clean": clean.shards, **{name: part.shards for name, part in parts.items()}}
    content = {
        "config": spec.model_dump(mode="json", exclude=_NOT_CONTENT) | {"max_length": max_length},
        "seed": seed,
        "sources": [file.model_dump(include={"sha256", "bytes", "rows", "format", "weight"}) for file in raw.files],
        "versions": versions(),
        "tokenizer_sha256": tokens.tokenizer_sha256,
        "template_sha256": tokens.template_sha256,
        "shards": {name: [shard.sha256 for shard in found] for name, found in shards.items()},
        "tokens": {name: getattr(tokens, name).sha256 for name in parts},
    }
    return DatasetManifest.model_validate({"sha256": digest_of(content), **content})


def versions() -> dict[str, str]:
    """Of Python, and of what decides the bytes that are written."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
