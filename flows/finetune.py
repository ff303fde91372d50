"""The pipeline's table of contents: a request in, an evaluated and, where it earns it, released model out."""

from prefect import flow

from flows.assess_model import assess_model
from flows.check_request import check_request
from flows.prepare_data import prepare_data
from flows.quickstart import find_base_model, own_data
from flows.release_model import release_model
from flows.request import FinetuneRequest
from flows.train_model import train_model
from tasks.contracts import FinetuneResult
from tasks.reporting.steps import opened_run, write_report


@flow(name="finetune", flow_run_name="{request.name}")
def finetune(request: FinetuneRequest) -> FinetuneResult:
    """Turn a dataset and a base model into an evaluated and, where it earns it, released model.

    Args:
        request: what to make of which data and model; name, model and data are enough.
    """
    check_request(request)
    asked = request.model_dump(mode="json")
    with opened_run(request.name, asked, request.store, request.tracking, request.base_model.hub) as run:
        base = find_base_model(run, request.base_model)
        data = prepare_data(run, own_data(run, request.data), base, request.training.max_length, request.seed)
        plan, model = train_model(run, request.method, request.training, request.resources, base, data.tokenized, request.seed)
        evaluation = assess_model(run, request.evaluation, model, data.tokenized, request.seed)
        release = release_model(run, request.release, model, data, evaluation) if evaluation.verdict.passed else None
        return write_report(run, asked, request.defaults(), base, data, plan, model, evaluation, release)
