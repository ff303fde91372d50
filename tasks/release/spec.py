"""What can be asked of the release stage."""

from pydantic import Field

from tasks.contracts import Spec
from tasks.release.exporters import Exporter
from tasks.release.exporters.safetensors import Safetensors
from tasks.release.targets import Target
from tasks.release.targets.none import NoTarget


class ApprovalSpec(Spec):
    """Whether a person is asked before a model that passed is released."""

    required: bool = Field(
        default=False, title="Ask a person",
        description="The run waits here, in Prefect's UI, for a yes. No GPU is held meanwhile.",
    )  # fmt: skip
    hours: float = Field(
        default=24.0, gt=0, le=8760, title="Hours to answer", description="Above 0 to 8760. No answer by then is a no."
    )


class ReleaseSpec(Spec):
    """In which forms a model that passed is released, and where to."""

    formats: list[Exporter] = Field(
        default=[Safetensors()], min_length=1, title="Formats", description="Files that are written of the model, at least one."
    )
    target: Target = Field(default=NoTarget(), title="Target", description="Where the model is served.")
    approval: ApprovalSpec = Field(default=ApprovalSpec(), title="Approval")
    golden_prompts: int = Field(
        default=20, ge=1, le=1000, title="Golden prompts", description="Prompts on which an export is compared, 1 to 1000."
    )
