"""The request: every stage's spec in one model. It is the form in the UI and the content of a request file."""

import re
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from tasks.contracts import Spec, digest_of
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import EvaluationSpec
from tasks.release.spec import ReleaseSpec
from tasks.resources.spec import ResourceSpec
from tasks.search.spec import SearchSpec
from tasks.training.methods import Method
from tasks.training.methods.lora import Lora
from tasks.training.spec import TrainingSpec

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class BaseModelSpec(Spec):
    """Which base model."""

    uri: str = Field(
        min_length=1, title="Model",
        description="A model of the hub (Qwen/Qwen3-0.6B), a folder, s3://..., models:/name@alias, or models/quickstart-base.",
    )  # fmt: skip
    revision: str = Field(default="", title="Revision", description="Commit, tag or branch on the hub. Empty: its main branch.")
    hub: str = Field(
        default="",
        title="Hub block",
        description="Name of the block with the hub's token, for models that ask for one. Empty: no account.",
    )
    trust_remote_code: bool = Field(
        default=False,
        title="Trust remote code",
        description="Run Python code that comes with the model. Only where you have read it.",
    )


class FinetuneRequest(Spec):
    """A dataset and a base model in, an evaluated model out. Name, model and data are enough."""

    model_config = ConfigDict(title="Fine-tune a model")

    name: str = Field(
        title="Name", json_schema_extra={"pattern": NAME_PATTERN},
        description="Of the run and its model: 1 to 63 lower-case letters, digits and dashes, e.g. support-bot.",
    )  # fmt: skip
    base_model: BaseModelSpec = Field(title="Base model")
    data: DataSpec = Field(title="Data")
    method: Method = Field(default=Lora(), title="Method", description="Which weights learn; the tab says it.")
    training: TrainingSpec = Field(default=TrainingSpec(), title="Training")
    search: SearchSpec = Field(default=SearchSpec(), title="Search")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), title="Evaluation")
    release: ReleaseSpec = Field(default=ReleaseSpec(), title="Release")
    resources: ResourceSpec = Field(default=ResourceSpec(), title="Resources")
    tracking: str = Field(
        default="", title="Tracking block", description="Name of an MLflow block. Empty: a database in the workspace."
    )
    store: str = Field(default="", title="Store block", description="Name of a store block. Empty: the workspace's folder.")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, title="Seed", description="Same seed, same result: 0 to 4294967295.")

    @field_validator("name")
    @classmethod
    def _is_a_slug(cls, name: str) -> str:
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError("use 1 to 63 lower-case letters, digits and dashes, no dash at either end, e.g. support-bot")
        return name

    def sha256(self) -> str:
        """The content hash of the request."""
        return digest_of(self.model_dump(mode="json"))

    def defaults(self) -> dict[str, Any]:
        """The same request with nothing but name, model and data asked for."""
        required = {"name": self.name, "base_model": {"uri": self.base_model.uri}, "data": {"source": self.data.source}}
        return FinetuneRequest.model_validate(required).model_dump(mode="json")

    def names_blocks(self) -> bool:
        """Whether a block is named, for which Prefect's API must answer."""
        return bool(self.store or self.tracking or self.base_model.hub or self.data.access or self.data.encryption)
