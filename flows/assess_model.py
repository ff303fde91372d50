"""A trained model in, evidence and a verdict out."""

from prefect import flow

from tasks.contracts import EvaluationReport, RunContext, TokenizedDataset, TrainedModel
from tasks.evaluation.spec import EvaluationSpec
from tasks.evaluation.steps import evaluate_model


@flow(name="assess-model", flow_run_name="assess {run.name}", validate_parameters=False)
def assess_model(
    run: RunContext, spec: EvaluationSpec, model: TrainedModel, data: TokenizedDataset, seed: int
) -> EvaluationReport:
    """Examine base and tuned model on the held-out rows, and judge."""
    return evaluate_model(run, spec, model, data, seed)
