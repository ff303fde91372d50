"""What can be asked of the data stage."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_serializer, model_validator

from tasks.contracts import Spec

PersonalKind = Literal["api_key", "email", "ip", "card", "national_id", "phone", "person", "location"]
EditName = Literal[
    "keyboard_typo", "letter_swap", "letter_drop", "word_drop", "word_swap", "case_change", "punctuation_drop", "whitespace"
]
TaskKind = Literal["auto", "chat", "completion", "classification", "qa", "text"]


_READING = {"source", "access", "task", "columns", "system_prompt", "maximum_rows"}


class Source(Spec):
    """One address and how often its rows count in training."""

    model_config = ConfigDict(title="Address and weight")

    address: str = Field(
        min_length=1, title="Address", description="File, folder, pattern, or an address such as s3://bucket/x.jsonl."
    )
    weight: float = Field(
        default=1.0, gt=0, le=100, title="Weight",
        description="How often each training row counts, above 0 to 100: 2 repeats it, 0.5 keeps a random half.",
    )  # fmt: skip


OneAddress = Annotated[str, Field(title="One address")]
SeveralAddresses = Annotated[list[Annotated[str, Field(title="Address")] | Source], Field(title="Several addresses")]


class ColumnsSpec(Spec):
    """Your name of a column, where automatic mapping does not find it. Leave the others empty."""

    question: str = Field(default="", title="Question", description="Your column with what is asked, e.g. ask.")
    answer: str = Field(default="", title="Answer", description="Your column with the answer to the question, e.g. reply.")
    context: str = Field(default="", title="Context", description="Your column with a text that the question is about.")
    instruction: str = Field(default="", title="Instruction", description="Your column with the task to be done.")
    input: str = Field(default="", title="Input", description="Your column with what the instruction is applied to.")
    output: str = Field(default="", title="Output", description="Your column with the instruction's answer.")
    prompt: str = Field(default="", title="Prompt", description="Your column with the beginning of a text.")
    completion: str = Field(default="", title="Completion", description="Your column with its end, which is learned.")
    text: str = Field(default="", title="Text", description="Your column with the text to classify, or plain text.")
    label: str = Field(default="", title="Label", description="Your column with the class of the text.")
    messages: str = Field(default="", title="Messages", description="Your column with a list of {role, content}.")
    conversations: str = Field(default="", title="Conversations", description="Your column with a list of {from, value}.")
    system: str = Field(default="", title="System", description="Your column with each conversation's system prompt.")
    tools: str = Field(default="", title="Tools", description="Your column with the tools that a conversation may use.")

    @model_serializer
    def named(self) -> dict[str, str]:
        """Our name -> theirs, of those that are given."""
        return {ours: theirs for ours, theirs in self if theirs}


class CleaningSpec(Spec):
    """Which repairs and removals are made; every one is counted in the ledger."""

    repair_encoding: bool = Field(default=True, title="Repair encoding", description="Mend mis-decoded text: cafÃ© to café.")
    strip_control: bool = Field(
        default=True, title="Strip control characters", description="Remove control and zero-width characters."
    )
    strip_whitespace: bool = Field(
        default=True,
        title="Trim whitespace",
        description="Remove blanks at both ends of a turn, and carriage returns; nothing else inside.",
    )
    unescape_newlines: bool = Field(
        default=True, title="Unescape line breaks",
        description="Make a written \\n a line break, in files where 5 % of the texts hold one in prose; never in code.",
    )  # fmt: skip
    html: Literal["keep", "strip"] = Field(
        default="keep", title="HTML",
        description="strip: known tags go and entities are decoded, but not in code and not where HTML is what was asked for.",
    )  # fmt: skip
    personal_data: Literal["off", "flag", "redact"] = Field(
        default="flag", title="Personal data",
        description="flag: personal data and secrets are counted. redact: [EMAIL], [PHONE], ... stand in their place.",
    )  # fmt: skip
    personal_kinds: list[PersonalKind] = Field(
        default=["api_key", "email", "ip", "card", "national_id", "phone"], title="Kinds of personal data",
        description="Which kinds are looked for. person and location need a model for names.",
    )  # fmt: skip
    names_model: str = Field(
        default="",
        title="Model for names",
        description="An installed spaCy model, e.g. en_core_web_lg, by which Presidio (the extra presidio) finds persons and "
        "locations. Empty: only what has a form of its own is found.",
    )
    exact_duplicates: bool = Field(default=True, title="Drop exact duplicates", description="Keep the first of equal rows.")
    near_duplicates: float = Field(
        default=0.4,
        ge=0,
        le=1,
        title="Near-duplicate threshold",
        description="Drop a row that shares this part of its words and word pairs (Jaccard) with an earlier row, and most of "
        "its answer, 0.3 to 1. 0: off.",
    )

    @model_validator(mode="after")
    def _names_need_a_model(self) -> Self:
        asked = [kind for kind in self.personal_kinds if kind in ("person", "location")]
        if asked and not self.names_model:
            raise ValueError(
                f"personal_kinds names {' and '.join(asked)}, which only a model can find; name one in names_model, "
                f"e.g. en_core_web_lg"
            )
        return self

    @field_validator("near_duplicates")
    @classmethod
    def _usable(cls, value: float) -> float:
        if 0 < value < 0.3:
            raise ValueError("below 0.3 unrelated rows would go; use 0 (off) or 0.3 to 1")
        return value


class ValidationSpec(Spec):
    """When the data are too poor to train on."""

    minimum_rows: int = Field(
        default=10, ge=3, title="Fewest rows", description="The run stops with fewer usable rows than this, 3 or more."
    )
    maximum_missing: float = Field(
        default=0.5,
        gt=0,
        le=1,
        title="Missing share",
        description="The run stops where a larger share of the rows has no answer, above 0 to 1.",
    )
    minimum_quality: float = Field(
        default=0.0,
        ge=0,
        le=1,
        title="Lowest quality",
        description="The run stops below this quality score, 0 to 1. 0: any.",
    )


class SplittingSpec(Spec):
    """How rows are divided; a split follows the content of a row, so that it is stable when rows are added."""

    validation: float = Field(
        default=0.05,
        ge=0,
        le=0.5,
        title="Validation share",
        description="Of the rows, to choose the best checkpoint, 0 to 0.5.",
    )
    test: float = Field(
        default=0.1, gt=0, le=0.5, title="Test share",
        description="Of the rows, for the final examination; training never sees them. Above 0 to 0.5.",
    )  # fmt: skip
    leakage: Literal["drop", "error", "off"] = Field(
        default="drop", title="Shared text",
        description="Training rows that share 13 words in a row with held-out rows. drop: left out and counted. error: the run "
        "stops and names some. off: not looked for.",
    )  # fmt: skip


class AugmentationSpec(Spec):
    """Training rows made from others, where there are few: what is asked is edited, answers are never touched."""

    minimum_rows: int = Field(
        default=0, ge=0, title="Fewest training rows",
        description="Below this, synthetic rows are added until there are so many, 0 or more. 0: off.",
    )  # fmt: skip
    operations: list[EditName] = Field(
        default=["keyboard_typo", "letter_swap", "letter_drop", "word_drop", "word_swap", "case_change", "punctuation_drop",
                 "whitespace"],
        title="Edits", description="Which small edits are made, one kind a row. Empty: none.",
    )  # fmt: skip
    per_row: int = Field(default=2, ge=1, le=20, title="Most per row", description="Rows made from one row, 1 to 20.")
    share: float = Field(
        default=0.5, gt=0, le=0.9, title="Most of all",
        description="Synthetic rows as a share of the training rows, above 0 to 0.9.",
    )  # fmt: skip
    paraphrase: str = Field(
        default="", title="Paraphrasing model",
        description="A causal language model that says the same in other words: a folder or a hub id. Empty: no paraphrases.",
    )  # fmt: skip
    paraphrase_low: float = Field(
        default=0.3, ge=0, le=1, title="Least alike",
        description="A paraphrase that shares fewer of its words (Jaccard) with the text is not taken, 0 to 1.",
    )  # fmt: skip
    paraphrase_high: float = Field(
        default=0.9, ge=0, le=1, title="Most alike",
        description="A paraphrase that shares more of its words (Jaccard) with the text is not taken, 0 to 1.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.minimum_rows and not self.operations and not self.paraphrase:
            raise ValueError("minimum_rows asks for synthetic rows, but operations is empty and paraphrase names no model")
        if self.paraphrase_low >= self.paraphrase_high:
            raise ValueError(f"paraphrase_low {self.paraphrase_low} must be below paraphrase_high {self.paraphrase_high}")
        return self


class DataSpec(Spec):
    """Which data, what they are, and what is done to them."""

    source: OneAddress | SeveralAddresses = Field(
        title="Source",
        description="A file, a folder, or a pattern such as tickets/*.jsonl, where the work is done; s3://bucket/... too. "
        "JSON, JSONL, CSV, TSV or Parquet; all but Parquet may be packed (.gz, .zst). quickstart: is the example.",
    )
    task: TaskKind = Field(
        default="auto", title="Task", description="What the rows are for. auto: found from the names of their columns."
    )
    system_prompt: str = Field(
        default="",
        title="System prompt",
        description="Put before every conversation that has none of its own. Empty: none.",
    )
    maximum_rows: int = Field(
        default=0, ge=0, title="Most rows", description="Only so many rows are read, from the first on, 0 or more. 0: all."
    )
    validation: ValidationSpec = Field(default=ValidationSpec(), title="Validation")
    cleaning: CleaningSpec = Field(default=CleaningSpec(), title="Cleaning")
    splitting: SplittingSpec = Field(default=SplittingSpec(), title="Splitting")
    augmentation: AugmentationSpec = Field(default=AugmentationSpec(), title="Augmentation")
    truncation: Literal["cut", "split", "error"] = Field(
        default="cut",
        title="Too long rows",
        description="cut: the end of the sequence goes, and what it cost is reported. split: a text becomes several, a "
        "conversation is divided between its turns. error: the run stops and names the rows.",
    )
    chat_template: str = Field(
        default="", title="Chat template",
        description="A Jinja template that takes the place of the model's own, and travels with it. Empty: the model's own.",
    )  # fmt: skip
    columns: ColumnsSpec = Field(default=ColumnsSpec(), title="Columns")
    access: str = Field(
        default="", title="Data access block",
        description="Name of a block with the log-ins of the sources. Empty: what the environment gives.",
    )  # fmt: skip
    encryption: str = Field(
        default="", title="Data key block",
        description="Name of a block with the key under which rows and tokens are encrypted on disk. Pages then show no rows; "
        "deleting the block makes every copy unreadable. Empty: nothing is encrypted.",
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
