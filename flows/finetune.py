"""The pipeline's table of contents: a request in, an evaluated and, where it earns it, released model out."""

from prefect import flow

from flows.assess_model import assess_model
from flows.chains import base_of, data_of
from flows.check_request import check_request
from flows.placement import placed
from flows.prepare_data import prepare_data
from flows.release_model import release_model
from flows.request import FinetuneRequest
from flows.search_settings import settings_for
from flows.stage_requests import assessing, preparing, releasing, searching
from flows.train_model import train_model
from tasks.contracts import EvaluationReport, FinetuneResult, HardwarePlan, ReleaseResult, TrainedModel
from tasks.orchestration.steps import stoppable
from tasks.records import recall
from tasks.release.steps import ask_approval, demand_askable
from tasks.reporting.steps import opened_run, write_report
from tasks.steps import store_of


@flow(name="finetune", flow_run_name="{request.name}")
@stoppable
def finetune(request: FinetuneRequest) -> FinetuneResult:
    """Turn a dataset and a base model into an evaluated and, where it earns it, released model.

    Args:
        request: name, model and data source are enough; the rest has defaults. In the form, Submit is at the bottom.
    """
    demand_askable(request.release)
    check_request(request)
    blocks = request.store, request.tracking, request.base_model.hub
    with opened_run(request.name, request, *blocks, encryption=request.data.encryption) as run:
        prepare_data(preparing(request))
        search, training = settings_for(run, searching(request))
        model = placed(run, train_model, training, "model", TrainedModel)
        plan = recall(store_of(run), run.name, "plan", HardwarePlan)
        evaluation = placed(run, assess_model, assessing(request), "evaluation", EvaluationReport)
        approval = ask_approval(run, request.release, model, evaluation)
        release = None
        if evaluation.verdict.passed and (approval is None or approval.granted):
            release = placed(run, release_model, releasing(request), "release", ReleaseResult)
        return write_report(
            run, request.model_dump(mode="json"), request.defaults(), base_of(run), data_of(run), plan, model, evaluation,
            approval, release, search,
        )  # fmt: skip
