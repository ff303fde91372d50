"""Where a stage runs: on its work pool where the run was started from a deployment, else in this process."""

from typing import Any, TypeVar

from prefect import Flow

from flows.stage_requests import StageRequest
from tasks.contracts import RunContext, Value
from tasks.orchestration.steps import is_deployed, run_on_pool
from tasks.records import intact, recall, recall_if_known
from tasks.steps import store_of

V = TypeVar("V", bound=Value)


def placed(run: RunContext, stage: Flow[Any, Any], request: StageRequest, kind: str, value_type: type[V]) -> V:
    """Run a stage of `run` where it belongs; the value that it kept as `kind`."""
    store = store_of(run)

    def whole() -> bool:
        value = recall_if_known(store, run.name, kind, value_type)
        return value is not None and intact(store, value)

    if is_deployed():
        run_on_pool(f"{stage.name}/{stage.name}", {"request": request.model_dump(mode="json")}, whole=whole)
    else:
        stage(request)
    return recall(store, run.name, kind, value_type)
