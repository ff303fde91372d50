"""A model that passed in, verified artifacts and a registered version out."""

from prefect import flow

from tasks.contracts import EvaluationReport, PreparedData, ReleaseResult, RunContext, TrainedModel
from tasks.release.spec import ReleaseSpec
from tasks.release.steps import export_model, publish_release


@flow(name="release-model", flow_run_name="release {run.name}", validate_parameters=False)
def release_model(
    run: RunContext, spec: ReleaseSpec, model: TrainedModel, data: PreparedData, report: EvaluationReport
) -> ReleaseResult:
    """Export in every format, each held against the trained model, then publish and register."""
    exports = tuple(export_model(run, exporter, model, data, report, spec.golden_prompts) for exporter in spec.formats)
    return publish_release(run, spec, exports, model, report)
