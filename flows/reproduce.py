"""A run's training once more from its record, and how far the outcome is the same."""

from importlib.metadata import version
from platform import python_version

from prefect import flow

from flows.chains import base_of, data_of, model_of
from flows.stage_requests import StageRequest, TrainRequest
from tasks.contracts import Reproduction, RunContext, Value
from tasks.orchestration.steps import stoppable
from tasks.records import recall
from tasks.reporting.steps import keep_value, opened_stage
from tasks.steps import store_of
from tasks.training.reproduction import compared, curve_of
from tasks.training.steps import train_again

_LIBRARIES = ("tuneflow", "torch", "transformers", "peft", "deepspeed", "numpy", "bitsandbytes")


class TrainingRecord(Value):
    """How a run's model was trained, and on what."""

    request: TrainRequest
    environment: dict[str, str]


def environment_of_training() -> dict[str, str]:
    """What decides the bits of a training besides its request: the device and the libraries."""
    from tasks.resources.hardware import find_machine

    machine = find_machine()
    libraries = {name: version(name) for name in _LIBRARIES}
    return {"device": machine.name, "cores": str(machine.cores), "python": python_version(), **libraries}


@flow(name="reproduce", flow_run_name="reproduce {request.run}")
@stoppable
def reproduce(request: StageRequest) -> Reproduction:
    """Train a run's model again from its record, and compare data, data order, losses and weights.

    Args:
        request: which run.
    """
    with opened_stage(request.run, request, request.store) as run:
        return keep_value(run, "reproduction", _again(run))


def _again(run: RunContext) -> Reproduction:
    store = store_of(run)
    record, first = recall(store, run.name, "training", TrainingRecord), model_of(run)
    asked = record.request
    again = train_again(
        run, asked.method, asked.training, first.plan, base_of(run), data_of(run).tokenized, asked.seed, run.started
    )
    curves = curve_of(store.local(first.history_uri)), curve_of(store.local(again.history_uri))
    return compared(run.name, first, again, curves, (record.environment, environment_of_training()))
