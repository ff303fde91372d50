"""A trained model in, evidence and a verdict out."""

from prefect import flow

from flows.chains import data_of, model_of
from flows.stage_requests import AssessRequest
from tasks.contracts import EvaluationReport
from tasks.evaluation.steps import demand_possible, evaluate_model
from tasks.orchestration.steps import stoppable
from tasks.reporting.steps import keep_value, opened_stage


@flow(name="assess-model", flow_run_name="assess {request.run}")
@stoppable
def assess_model(request: AssessRequest) -> EvaluationReport:
    """Examine base and tuned model on the held-out rows, and judge.

    Args:
        request: which run's model, and by which questions.
    """
    with opened_stage(request.run, request, request.store) as run:
        model, data = model_of(run), data_of(run).tokenized
        demand_possible(request.evaluation, data.task, model.base.max_positions)
        report = evaluate_model(run, request.evaluation, model, data, request.seed)
        return keep_value(run, "evaluation", report)
