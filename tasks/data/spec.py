"""What can be asked of the data stage."""

from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from tasks.contracts import Spec

TaskKind = Literal["auto", "chat", "completion", "classification", "qa", "text"]


_READING = {"source", "task", "columns", "system_prompt", "maximum_rows"}


class Source(Spec):
    """One address and how often its rows count in training."""

    address: str = Field(
        min_length=1, title="Address", description="File, folder, glob, or an address such as s3://bucket/x.jsonl."
    )
    weight: float = Field(
        default=1.0, gt=0, le=100, title="Weight",
        description="How often each training row counts, above 0 to 100: 2 repeats it, 0.5 keeps a random half.",
    )  # fmt: skip


class CleaningSpec(Spec):
    """Which repairs and removals are made; every one is counted in the ledger."""

    repair_encoding: bool = Field(default=True, title="Repair encoding", description="Mend mis-decoded text (mojibake).")
    strip_control: bool = Field(
        default=True, title="Strip control characters", description="Remove control and zero-width characters."
    )
    strip_whitespace: bool = Field(
        default=True,
        title="Trim whitespace",
        description="Trim both ends of a turn and carriage returns; inside, nothing.",
    )
    exact_duplicates: bool = Field(default=True, title="Drop exact duplicates", description="Keep the first of equal rows.")
    near_duplicates: float = Field(
        default=0.85, ge=0, le=1, title="Near-duplicate threshold",
        description="Drop a row whose words' 3-grams overlap an earlier row's by this Jaccard share or more, 0.3 to 1. 0: off.",
    )  # fmt: skip

    @field_validator("near_duplicates")
    @classmethod
    def _usable(cls, value: float) -> float:
        if 0 < value < 0.3:
            raise ValueError("below 0.3 unrelated rows would go; use 0 (off) or 0.3 to 1")
        return value


class ValidationSpec(Spec):
    """When the data are too poor to train on."""

    minimum_rows: int = Field(default=10, ge=3, title="Fewest rows", description="Fewest usable rows, 3 or more.")
    maximum_missing: float = Field(
        default=0.5,
        gt=0,
        le=1,
        title="Missing share",
        description="Largest share of rows without an answer, above 0 to 1.",
    )
    minimum_quality: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Lowest quality",
        description="Lowest quality score that may go on, 0 to 1. 0: any.",
    )


class SplittingSpec(Spec):
    """How rows are divided; a split follows the content of a row, so that it is stable when rows are added."""

    validation: float = Field(default=0.05, ge=0, le=0.5, title="Validation share", description="0 to 0.5.")
    test: float = Field(default=0.1, gt=0, le=0.5, title="Test share", description="Above 0 to 0.5.")


class DataSpec(Spec):
    """Which data, what they are, and what is done to them."""

    source: str | list[str | Source] = Field(
        title="Source",
        description="A file, folder or glob (JSON, JSONL, CSV, TSV, Parquet; .gz and .zst too), or a list of them.",
    )
    task: TaskKind = Field(default="auto", title="Task", description="auto finds it from the columns.")
    columns: dict[str, str] = Field(
        default_factory=dict, title="Columns",
        description="Their column for ours where automatic mapping does not fit, e.g. {question: ask, answer: reply}.",
    )  # fmt: skip
    system_prompt: str = Field(
        default="",
        title="System prompt",
        description="Put before every conversation that has none of its own. Empty: none.",
    )
    maximum_rows: int = Field(default=0, ge=0, title="Most rows", description="Only the first rows are read. 0: all.")
    validation: ValidationSpec = ValidationSpec()
    cleaning: CleaningSpec = CleaningSpec()
    splitting: SplittingSpec = SplittingSpec()
    truncation: Literal["cut", "error"] = Field(
        default="cut", title="Too long rows",
        description="cut: the end of the sequence goes, and what it cost is reported. error: the run stops and names the rows.",
    )  # fmt: skip

    def sources(self) -> tuple[Source, ...]:
        """The sources as a list, a bare address with weight 1."""
        entries = [self.source] if isinstance(self.source, str) else self.source
        return tuple(Source(address=entry) if isinstance(entry, str) else entry for entry in entries)

    def reading(self) -> "DataSpec":
        """The part that decides what is read; the rest at its defaults, so that it changes no cache key of the reading."""
        return DataSpec.model_validate(self.model_dump(include=_READING))

    def title(self) -> str:
        """A short name of the data, from their addresses."""
        names = [PurePosixPath(source.address.rstrip("/")).name.split(".")[0] for source in self.sources()]
        return "+".join(name.strip("*") or "data" for name in names)[:60]
