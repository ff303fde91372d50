"""Rows in, tokens out."""

from prefect import flow

from flows.chains import prepared
from flows.check_request import check_request
from flows.quickstart import find_base_model, own_data
from flows.stage_requests import PrepareRequest
from flows.token_samples import write_token_samples
from tasks.contracts import PreparedData
from tasks.orchestration.steps import stoppable
from tasks.reporting.steps import keep_value, opened_stage, write_data_page


@flow(name="prepare-data", flow_run_name="prepare {request.name}")
@stoppable
def prepare_data(request: PrepareRequest) -> PreparedData:
    """Load, validate, clean, split and tokenize data for a model.

    Args:
        request: which data, for which model.
    """
    blocks = request.store, request.tracking, request.base_model.hub, request.data.encryption
    with opened_stage(request.name, request, *blocks) as run:
        if not run.part:
            check_request(request.whole())
        base = find_base_model(run, request.base_model)
        keep_value(run, "base", base)
        data = prepared(run, own_data(run, request.data), base, request.max_length, request.seed)
        write_token_samples(run, data, request)
        write_data_page(run, data, request)
        return keep_value(run, "data", data)
