"""A model that passed in, verified artifacts and a registered version out."""

from prefect import flow

from flows.chains import data_of, model_of
from flows.stage_requests import ReleaseRequest
from tasks.contracts import EvaluationReport, ReleaseResult
from tasks.orchestration.steps import stoppable
from tasks.records import recall
from tasks.release.steps import demand_passed, export_model, publish_release
from tasks.reporting.steps import keep_value, opened_stage
from tasks.steps import store_of


@flow(name="release-model", flow_run_name="release {request.run}")
@stoppable
def release_model(request: ReleaseRequest) -> ReleaseResult:
    """Export in every format, each held against the trained model, then publish and register.

    Args:
        request: which run's model, and in which forms.
    """
    with opened_stage(request.run, request, request.store) as run:
        model, data = model_of(run), data_of(run)
        report = recall(store_of(run), run.name, "evaluation", EvaluationReport)
        demand_passed(run, request.release, report, model)
        spec = request.release
        exports = tuple(export_model(run, exporter, model, data, report, spec.golden_prompts) for exporter in spec.formats)
        return keep_value(run, "release", publish_release(run, spec, exports, model, report))
