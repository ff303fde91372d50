"""What can be asked of the release stage."""

from pydantic import Field

from tasks.contracts import Spec
from tasks.release.exporters import Exporter
from tasks.release.exporters.safetensors import Safetensors
from tasks.release.targets import Target
from tasks.release.targets.none import NoTarget


def _merged() -> list[Exporter]:
    return [Safetensors()]


class ReleaseSpec(Spec):
    """In which forms a model that passed is released, and where to."""

    formats: list[Exporter] = Field(default_factory=_merged, min_length=1, title="Formats", description="At least one.")
    target: Target = Field(default_factory=NoTarget, title="Target")
    golden_prompts: int = Field(
        default=20, ge=1, le=1000, title="Golden prompts", description="Prompts on which an export is compared, 1 to 1000."
    )
