"""The evaluation stage's step."""

import time

from tasks.contracts import EvaluationReport, TokenizedDataset, TrainedModel
from tasks.errors import RequestError
from tasks.evaluation import verdict
from tasks.evaluation.items import ITEMS_FILE
from tasks.evaluation.job import EvaluationJob
from tasks.evaluation.spec import EvaluationSpec
from tasks.steps import StepContext, step

_BATCH = 16  # fixed: scores move with the batch size


@step("evaluate", version=1)
def evaluate_model(
    context: StepContext, spec: EvaluationSpec, model: TrainedModel, data: TokenizedDataset, seed: int
) -> EvaluationReport:
    """Examine base and tuned model on the same items, and judge."""
    started = time.monotonic()
    plan = model.plan
    job = EvaluationJob(
        trained=model, trained_folder=context.local(model.uri), tokenizer_folder=context.local(data.tokenizer_uri),
        test_file=context.local(data.test.uri), out=context.folder, benchmarks=tuple(spec.benchmarks), seed=seed,
        precision="bf16" if plan.precision == "bf16" else "fp32", device=plan.accelerator, batch_size=_BATCH,
        threads=plan.threads,
    )  # fmt: skip
    context.run_worker("tasks.evaluation.worker", job, plan.accelerator, plan.threads)
    report = verdict.report(
        context.folder, spec=spec, trained=model, seed=seed, items_uri=f"{context.uri}/{ITEMS_FILE}",
        history=context.local(model.history_uri), seconds=time.monotonic() - started,
    )  # fmt: skip
    if context.run.encryption:
        report = report.model_copy(update={"examples": ()})  # they are rows, and a report is in clear
    for score in report.scores:
        name = f"{score.benchmark}.{score.metric}.{score.model}"
        context.log_metrics({name: score.value, f"{name}.low": score.low, f"{name}.high": score.high})
    return report


def demand_possible(spec: EvaluationSpec, task: str, max_positions: int) -> None:
    """Refuse questions that these data or this model do not allow.

    Raises:
        RequestError: naming each.
    """
    if problems := verdict.check(spec, task=task, max_positions=max_positions):
        raise RequestError(" ".join(problems))
