"""Every typed value that crosses a border between stages.

A value is small and frozen: addresses, hashes, counts and numbers; never a table, a tensor, a client or a secret. Data are
written first and the value that names them last, and each value names its parent by sha256, so that lineage can be checked
and caching is by content. All sizes are bytes, all durations seconds and all shares 0..1 unless the name says otherwise.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks.errors import FailureClass

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Setting = str | int | float | bool | None
ModelRole = Literal["base", "tuned", "incumbent"]
VerdictStatus = Literal["pass", "fail", "inconclusive"]


def digest_of(content: object) -> str:
    """sha256 of `content` as canonical JSON: sorted keys, no spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> object:
        """What a cache key sees of this value: its content hash where it has one, else all of it."""
        return getattr(self, "sha256", None) or self.model_dump(mode="json")


class Count(Value):
    """How many rows share one reason."""

    reason: str
    rows: int = Field(ge=0)


class FileRecord(Value):
    """One file of a folder, its path relative to that folder."""

    path: str
    sha256: Sha256
    bytes: int = Field(ge=0)


class RunContext(Value):
    """Where a run works and what it is called; the first argument of every step and never part of a cache key."""

    name: str
    workspace: str
    store: str = ""  # name of a store block; "" is the workspace itself
    tracking: str = ""  # name of a tracking block; "" is the workspace's own database
    hub: str = ""  # name of a model hub block; "" is anonymous access
    encryption: str = ""  # name of a data key block; "" leaves the run's data in clear
    run_id: str = ""  # the request's parent run in MLflow
    flow_run_id: str = ""  # the flow run that opened the run
    trial: str = ""  # "trial-3": one training of a search; "" is the run itself
    part: bool = False  # whether this is a stage of a run that is under way, not one started alone
    started: float = 0.0  # seconds since 1970

    @property
    def folder(self) -> Path:
        """Where the run's local records and logs lie."""
        folder = Path(self.workspace) / "runs" / self.name
        return folder / "trials" / self.trial if self.trial else folder

    def title(self, step: str) -> str:
        """What a step of this run is called in logs and in MLflow."""
        return f"{self.trial}: {step}" if self.trial else step

    def identity(self) -> object:
        """Nothing: where a run works does not change what it computes."""
        return None


class ModelRef(Value):
    """A base model, resolved to files.

    `uri` is what was asked for, `location` the folder that holds the files, `revision` the hub commit ("" for a folder).
    """

    uri: str
    location: str
    revision: str = ""
    sha256: Sha256
    parameters: int = Field(ge=1)
    architecture: str
    max_positions: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    bytes: int = Field(ge=0)
    hidden_size: int = Field(ge=1)
    layers: int = Field(ge=1)
    trust_remote_code: bool = False


class SourceFile(Value):
    """One input file as it was found."""

    address: str
    format: str
    sha256: Sha256
    bytes: int = Field(ge=0)
    rows: int = Field(ge=0)
    weight: float = Field(default=1.0, gt=0)
    escaped: Share = 0.0  # texts that hold a line break written as backslash and n, outside code


class Shard(Value):
    """One Parquet file of a dataset, at most 50,000 rows; its hash covers the content, not the Parquet bytes."""

    name: str
    rows: int = Field(ge=0)
    sha256: Sha256


class RawDataset(Value):
    """Rows as loaded: mapped to conversations, nothing repaired, nothing dropped.

    `uri` holds `rows/` with the shards: columns file (string), line (int64, from 1), source (int64: index into `files`) and
    messages (list of struct<role: string, content: string, learn: bool>; learn is false for an answer that is context alone). A
    row's number is its place over all shards in their order, from 0. A row of plain text has one message of role "text".
    """

    name: str
    uri: str
    sha256: Sha256
    format: str
    shape: str
    task: Literal["chat", "completion", "classification", "qa", "text"]
    rows: int = Field(ge=1)
    bytes: int = Field(ge=0)
    columns: tuple[str, ...]
    mapping: dict[str, str]  # our field -> their column
    mapping_confidence: Share
    mapping_reason: str
    files: tuple[SourceFile, ...]
    shards: tuple[Shard, ...]


class Check(Value):
    """One check: what was expected, what was found, and whether that stops the run."""

    name: str
    passed: bool
    severity: Literal["info", "fixable", "fatal"]
    expected: str
    found: str
    rows: int = Field(default=0, ge=0)
    examples: tuple[str, ...] = ()


class QualityComponent(Value):
    """One component of the quality score: the share of rows in order, and its weight in the mean."""

    name: str
    share: Share
    weight: float = Field(gt=0)


class ValidationReport(Value):
    """What was found in a raw dataset; `quality` is the weighted mean of the components."""

    dataset_sha256: Sha256
    checks: tuple[Check, ...]
    quality: Share
    components: tuple[QualityComponent, ...]
    repairs: tuple[str, ...]  # names of the cleaning rules that will mend what is fixable

    @property
    def passed(self) -> bool:
        """True where no fatal check failed."""
        return all(check.passed or check.severity != "fatal" for check in self.checks)

    def identity(self) -> object:
        """Which data, and whether they passed: examples name files, which may move."""
        return [self.dataset_sha256, self.passed, self.quality]


class Ledger(Value):
    """What became of every row. Building one that does not balance is an error."""

    rows_in: int = Field(ge=0)
    kept: int = Field(ge=0)
    dropped: tuple[Count, ...] = ()
    repaired: tuple[Count, ...] = ()
    synthetic: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _balances(self) -> Self:
        gone = sum(count.rows for count in self.dropped)
        if self.rows_in + self.synthetic != self.kept + gone:
            raise ValueError(
                f"The ledger does not balance: {self.rows_in} rows in + {self.synthetic} synthetic is not "
                f"{self.kept} kept + {gone} dropped."
            )
        return self


class CleanDataset(Value):
    """Cleaned rows; `uri` holds the shards of `rows/` (row, the columns of the raw rows, group: string) and `quarantine/`.

    The quarantine has the columns row, file, line, source, messages and reason of every dropped row.
    """

    name: str
    uri: str
    sha256: Sha256
    parent_sha256: Sha256
    task: str
    ledger: Ledger
    quarantine_uri: str
    shards: tuple[Shard, ...]


class SplitPart(Value):
    """One split: a folder of shards with the columns of the clean rows."""

    uri: str
    sha256: Sha256
    rows: int = Field(ge=0)
    shards: tuple[Shard, ...] = ()


class DatasetSplits(Value):
    """Train, validation and test rows that share no content; `repeated` and `left_out` come from source weights.

    `dropped` counts the rows that went since they share text with held-out rows; they lie in `quarantine_uri`, with the reason.
    `synthetic` training rows were made from others: their column `parent` holds the number of the row they were made from.
    `not_taken` counts, by reason, what was made and then not added.
    """

    name: str
    sha256: Sha256
    parent_sha256: Sha256
    task: str
    train: SplitPart
    validation: SplitPart
    test: SplitPart
    leaked_rows: Literal[0] = 0
    groups: int = Field(ge=1)
    repeated: int = Field(default=0, ge=0)
    left_out: int = Field(default=0, ge=0)
    dropped: tuple[Count, ...] = ()
    quarantine_uri: str = ""
    synthetic: int = Field(default=0, ge=0)
    not_taken: tuple[Count, ...] = ()
    reasons: tuple[str, ...] = ()

    def parts(self) -> tuple[SplitPart, ...]:
        """The three splits."""
        return self.train, self.validation, self.test


class TokenizedSplit(Value):
    """One tokenized split: a folder of shards with one sequence a row.

    Columns: row (int64), input_ids (list<int32>), supervised (list<int8>, 1 where the token is learned), prompt (string: the
    rendered text before the last answer, which generation starts from), reference (string: the last answer) and group (string).
    """

    uri: str
    sha256: Sha256
    sequences: int = Field(ge=0)
    tokens: int = Field(ge=0)
    supervised_tokens: int = Field(ge=0)
    truncated_rows: int = Field(ge=0)
    truncated_tokens: int = Field(ge=0)
    split_rows: int = Field(default=0, ge=0)  # rows that became several sequences
    repeated_tokens: int = Field(default=0, ge=0)  # tokens that stand in several sequences of such a row
    dropped: tuple[Count, ...] = ()
    longest: int = Field(default=0, ge=0)


class TokenizedDataset(Value):
    """Sequences to learn from. `tokenizer_uri` holds the tokenizer and its chat template, `golden_uri` rendered prompts."""

    name: str
    sha256: Sha256
    parent_sha256: Sha256
    task: str
    train: TokenizedSplit
    validation: TokenizedSplit
    test: TokenizedSplit
    packing_efficiency: Share  # real tokens / positions computed on, padding included
    tokenizer_uri: str
    tokenizer_sha256: Sha256
    template_sha256: Sha256
    template_source: str
    golden_uri: str
    quarantine_uri: str = ""  # shards of the rows that gave no sequence, with the reason
    max_length: int = Field(ge=8)
    reasons: tuple[str, ...] = ()


class DatasetManifest(Value):
    """What decided the data, and the content that came of it: `sha256`, over all of this, is the data's version.

    It holds no addresses, so the same input has the same version wherever it lies, however often and by however many processes
    or machines it is prepared.
    """

    sha256: Sha256
    config: dict[str, Any]
    seed: int
    sources: tuple[dict[str, Any], ...]  # sha256, bytes, rows, format and weight of each file, in their order
    versions: dict[str, str]  # of Python, tuneflow and the libraries that decide bytes
    tokenizer_sha256: Sha256
    template_sha256: Sha256
    shards: dict[str, tuple[Sha256, ...]]  # of rows as read, as cleaned and in each split
    tokens: dict[str, Sha256]  # of each split's sequences


class PreparedData(Value):
    """Everything that preparing the data gave."""

    raw: RawDataset
    validation: ValidationReport
    clean: CleanDataset
    splits: DatasetSplits
    tokenized: TokenizedDataset
    manifest: DatasetManifest

    @property
    def ledger(self) -> Ledger:
        """What became of every row up to the splits; what has no tokens to learn is counted with the tokens."""
        ledger, splits = self.clean.ledger, self.splits
        gone = sum(count.rows for count in splits.dropped)
        return Ledger(
            rows_in=ledger.rows_in,
            kept=ledger.kept - gone + splits.synthetic,
            dropped=(*ledger.dropped, *splits.dropped),
            repaired=ledger.repaired,
            synthetic=ledger.synthetic + splits.synthetic,
        )

    def identity(self) -> object:
        """The content at both ends: addresses do not count."""
        return [self.raw.sha256, self.clean.sha256, self.tokenized.sha256]


class HardwarePlan(Value):
    """What was decided before training, and why. Memory is per device; hours and what follows from them are of all devices."""

    accelerator: Literal["cpu", "cuda"]
    device_name: str
    devices: int = Field(ge=1)  # of all nodes, as many on each
    tensor_parallel: int = Field(default=1, ge=1)  # devices of one node that divide a model's linear layers among them
    nodes: int = Field(default=1, ge=1)
    least_nodes: int = Field(default=1, ge=1)  # with fewer than these training waits
    hosts: tuple[str, ...] = ()  # names of the nodes; () where there is this machine alone
    backend: Literal["gloo", "nccl"]
    threads: int = Field(ge=1)
    zero_stage: Literal[0, 1, 2, 3]
    micro_batch: int = Field(ge=1)
    accumulation: int = Field(ge=1)
    precision: Literal["fp32", "bf16", "fp16"]
    activation_checkpointing: bool
    offload: Literal["none", "cpu", "nvme"] = "none"  # where the optimizer's states lie, and under ZeRO 3 the weights
    offload_folder: str = ""  # of a fast disk, for nvme
    memory_gib: float = Field(ge=0)
    hours: float = Field(ge=0)
    cost_usd: float = Field(ge=0)
    energy_kwh: float = Field(ge=0)
    carbon_kg: float = Field(default=0.0, ge=0)  # of CO2
    time_factor: float = Field(default=1.0, gt=0)  # `hours` is so many times what arithmetic alone says
    memory_factor: float = Field(default=1.0, gt=0)  # the same of `memory_gib`
    reasons: tuple[str, ...]

    @property
    def groups(self) -> int:
        """Parts that the rows of a step are divided into: devices that hold one model together have the same rows."""
        return self.devices // self.tensor_parallel

    def compare(self, memory_gib: float, hours: float) -> "Forecast":
        """The forecast beside what happened: money, energy and CO2 are in proportion to the hours."""
        ratio = hours / self.hours if self.hours else 0.0
        return Forecast(
            predicted_memory_gib=self.memory_gib, actual_memory_gib=memory_gib, predicted_hours=self.hours, actual_hours=hours,
            predicted_cost_usd=self.cost_usd, actual_cost_usd=self.cost_usd * ratio, predicted_energy_kwh=self.energy_kwh,
            actual_energy_kwh=self.energy_kwh * ratio, predicted_carbon_kg=self.carbon_kg,
            actual_carbon_kg=self.carbon_kg * ratio,
        )  # fmt: skip

    def identity(self) -> object:
        """The decisions alone: forecasts, names and sentences change no weight."""
        decided = {"accelerator", "devices", "nodes", "backend", "zero_stage", "micro_batch", "accumulation", "precision"}
        return self.model_dump(mode="json", include=decided | {"activation_checkpointing", "offload", "tensor_parallel"})


class Objective(Value):
    """One measured objective of a trial."""

    name: str
    value: float
    lower_is_better: bool = True


class Trial(Value):
    """One trial of a search; `settings` maps request paths such as training.learning_rate to values."""

    number: int = Field(ge=0)
    settings: dict[str, Setting]
    objectives: tuple[Objective, ...]
    status: Literal["done", "failed", "pruned"]
    seconds: float = Field(ge=0)
    run_id: str = ""
    reason: str = ""


class SearchResult(Value):
    """What a search tried and what it chose."""

    strategy: str
    best: Trial
    trials: tuple[Trial, ...]
    front: tuple[int, ...]  # numbers of the trials on the Pareto front
    control: tuple[int, ...]  # numbers of the control arm's trials
    reasons: tuple[str, ...]


class Forecast(Value):
    """A forecast beside what happened; memory is per device."""

    predicted_memory_gib: float
    actual_memory_gib: float
    predicted_hours: float
    actual_hours: float
    predicted_cost_usd: float
    actual_cost_usd: float
    predicted_energy_kwh: float = 0.0
    actual_energy_kwh: float = 0.0
    predicted_carbon_kg: float = 0.0
    actual_carbon_kg: float = 0.0


class Recovery(Value):
    """A failure that a training got over: it went on from the checkpoint of `step`, 0 being the start."""

    failure: FailureClass
    step: int = Field(ge=0)
    action: str  # what was changed
    reason: str  # what was found


class TrainedModel(Value):
    """A trained model: an adapter (`adapter` true; needs `base`) or full weights, as safetensors, in `uri`.

    `history_uri` is a JSON-lines file of step, tokens, loss, learning_rate and, where validated, validation_loss.
    """

    uri: str
    sha256: Sha256  # over the weight tensors, in the order of their names
    base: ModelRef
    data_sha256: Sha256
    tokenizer_uri: str
    adapter: bool
    method: str
    settings: dict[str, Any]
    plan: HardwarePlan
    seed: int
    steps: int = Field(ge=1)
    tokens: int = Field(ge=1)
    rows: int = Field(default=0, ge=0)  # of one pass: sequences, or packs of several
    fill: Share = 1.0  # of the positions that were computed on, those that held a token
    order_sha256: str = ""  # over the rows of every optimizer step; "" where it was not noted
    trainable_parameters: int = Field(ge=1)
    best_step: int = Field(ge=0)
    train_loss: float
    validation_loss: float | None  # None: no validation rows
    seconds: float = Field(ge=0)
    run_id: str = ""
    resumed_from: int = Field(ge=0)  # the step whose checkpoint training went on from; 0: from the start
    forecast: Forecast
    history_uri: str
    recoveries: tuple[Recovery, ...] = ()

    def identity(self) -> object:
        """The weights, and the base that an adapter needs to be a model."""
        return [self.sha256, self.base.sha256]


class Likeness(Value):
    """One hash of a training, and of the same training done again."""

    name: str
    first: str
    again: str

    @property
    def same(self) -> bool:
        """Whether both are known and equal."""
        return bool(self.first) and self.first == self.again


class Reproduction(Value):
    """A training done again: `bits`, the same weights; `curve`, the same data and losses within rounding; or neither."""

    run: str
    level: Literal["bits", "curve", "none"]
    checks: tuple[Likeness, ...]
    largest_difference: float | None  # of two losses at the same step; None: they were taken at other steps
    changed: tuple[str, ...]  # of device and libraries
    recoveries: int = Field(ge=0)  # failures that the first training got over
    reason: str


class Score(Value):
    """One metric of one model on one benchmark, with its confidence interval."""

    model: ModelRole
    benchmark: str
    metric: str
    value: float
    low: float
    high: float
    n: int = Field(ge=1)
    higher_is_better: bool


class Comparison(Value):
    """The tuned model against another on the same items.

    `difference` is tuned minus other, signed so that positive is better; `p_value` is two-sided.
    `enough` says how many items would settle a "not enough data"; 0 where it is settled or cannot be said.
    """

    against: Literal["base", "incumbent"]
    benchmark: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: Share
    n: int = Field(ge=1)
    verdict: Literal["better", "worse", "equivalent", "not enough data"]
    enough: int = Field(default=0, ge=0)


class Speed(Value):
    """Measured generation speed of one model."""

    model: ModelRole | Literal["exported"]
    prompt_tokens: int
    output_tokens: int
    first_token_ms_p50: float
    first_token_ms_p95: float
    tokens_per_second: float
    peak_memory_gib: float


class Example(Value):
    """What base and tuned model answer to one held-out prompt."""

    prompt: str
    reference: str
    base: str
    tuned: str


class Verdict(Value):
    """Whether the model may be released, and why."""

    status: VerdictStatus
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True for a pass alone: what is inconclusive is not released."""
        return self.status == "pass"


class EvaluationReport(Value):
    """The evidence for or against a release. `items_uri` holds every per-item result, from which each number follows."""

    model_sha256: Sha256
    data_sha256: Sha256
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    retention: tuple[Comparison, ...] = ()
    robustness: tuple[Comparison, ...] = ()
    speed: tuple[Speed, ...] = ()
    verdict: Verdict
    advice: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    items_uri: str
    confidence: float = Field(gt=0.5, lt=1)
    seconds: float = Field(ge=0)

    def identity(self) -> object:
        """The evidence: addresses and durations do not count."""
        return self.model_dump(mode="json", exclude={"items_uri", "seconds", "speed"})


class Parity(Value):
    """How far an export is from the trained model on the golden prompts."""

    prompts: int = Field(ge=1)
    max_difference: float = Field(ge=0)  # largest absolute difference of a log-probability
    tolerance: float = Field(ge=0)
    same_tokens: bool  # greedy continuations are equal
    passed: bool


class ExportedModel(Value):
    """One exported artifact in `uri`, listed file by file."""

    uri: str
    sha256: Sha256
    model_sha256: Sha256
    format: str
    files: tuple[FileRecord, ...]
    bytes: int = Field(ge=0)
    compression: str = "none"
    parity: Parity


class SmokeCheck(Value):
    """One request sent to a fresh deployment."""

    name: str
    passed: bool
    detail: str


class Deployment(Value):
    """Where a released model can be found; `endpoint` is a folder for the target none."""

    target: str
    endpoint: str
    version: str
    previous_version: str = ""
    smoke: tuple[SmokeCheck, ...] = ()
    status: Literal["live", "rolled_back"]


class ReleaseResult(Value):
    """What a release made: one export a format, the registered version and the deployment."""

    exports: tuple[ExportedModel, ...]
    registered: str = ""  # models:/name/version
    alias: str = ""
    deployment: Deployment | None = None


class Approval(Value):
    """What a person said to a release."""

    granted: bool
    by: str = ""  # the name that was given; Prefect's own server knows no users
    at: float = 0.0  # seconds since 1970
    comment: str = ""
    model_sha256: Sha256
    flow_run_id: str = ""  # of the run that asked


class StepRecord(Value):
    """Why one step ran or did not."""

    step: str
    key: str
    cached: bool
    reason: str
    seconds: float = Field(ge=0)
    at: float = 0.0  # when it ended, seconds since 1970
    inputs: dict[str, Any] = Field(default_factory=dict)  # flat: path -> value, what the key was made of


class FinetuneResult(Value):
    """The whole story of one request."""

    name: str
    status: Literal["released", "rejected"]
    request_sha256: Sha256
    data: PreparedData
    base: ModelRef
    search: SearchResult | None = None
    plan: HardwarePlan
    model: TrainedModel
    evaluation: EvaluationReport
    approval: Approval | None = None  # None: nobody had to be asked
    release: ReleaseResult | None = None
    rejected_reasons: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...]
    report_uri: str
    run_id: str
    seconds: float = Field(ge=0)


class CheckReport(Value):
    """What `tuneflow check` found, before any compute was spent."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True where no fatal check failed."""
        return all(check.passed or check.severity != "fatal" for check in self.checks)


def for_the_form(schema: dict[str, Any]) -> None:
    """Add what the form in Prefect's UI needs: the order of the fields, and a kind that is chosen with its tab alone.

    A PostgreSQL server keeps no order of keys, and the form sorts by `position`. A lone `kind` says nothing to the form about
    which tab a value belongs to, unless the whole value is a constant.
    """
    fields = schema.get("properties", {})
    for position, field in enumerate(fields.values()):
        field["position"] = position
        for option in (field, *field.get("anyOf", ())):
            if "const" in option:
                option["enum"] = [option["const"]]
    if "const" in fields.get("kind", {}):
        fields["kind"].setdefault("description", "Which one this is; it has no other value.")
        if len(fields) == 1:
            schema["const"] = {"kind": fields["kind"]["const"]}


class Spec(BaseModel):
    """What was asked: the base of every stage's options. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=for_the_form)


def _as_word(value: object) -> object:
    """YAML reads on and off as true and false."""
    return ("on" if value else "off") if isinstance(value, bool) else value


Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]
