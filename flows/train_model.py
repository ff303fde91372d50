"""Tokens in, a trained model out; or, as one trial of a search, its validation loss."""

from prefect import flow

from flows.chains import base_of, data_of, trained
from flows.reproduce import TrainingRecord, environment_of_training
from flows.stage_requests import TrainRequest, TrialRequest
from tasks.contracts import Objective, RunContext, TrainedModel, Trial
from tasks.errors import StoppedError, TuneflowError
from tasks.orchestration.steps import stoppable
from tasks.reporting.steps import keep_value, opened_stage
from tasks.search.space import Settings, apply
from tasks.search.steps import trial_kind


@flow(name="train-model", flow_run_name="train {request.run}")
@stoppable
def train_model(request: TrainRequest) -> TrainedModel:
    """Plan the hardware, then train on a run's prepared data.

    Args:
        request: which run, and how to train.
    """
    with opened_stage(request.run, request, request.store) as run:
        keep_value(run, "training", TrainingRecord(request=request, environment=environment_of_training()))
        plan, model = trained(
            run, request.method, request.training, request.resources, base_of(run), data_of(run).tokenized, request.seed
        )
        keep_value(run, "plan", plan)
        return keep_value(run, "model", model)


@flow(name="train-trial", flow_run_name="trial {request.number} of {request.run}")
@stoppable
def train_trial(request: TrialRequest) -> Trial:
    """Train for a few steps with some settings changed, and tell the validation loss.

    Args:
        request: which run, which settings, and for how long.
    """
    with opened_stage(request.run, request, request.store) as run:
        kind = trial_kind(request.model_dump(mode="json"), base_of(run), data_of(run).tokenized)
        return keep_value(run, kind, _tried(run, request))


def _tried(run: RunContext, request: TrialRequest) -> Trial:
    """The trial's outcome: a training that fails is a value too, so that the search goes on."""
    settings: Settings = {each.path: each.value for each in request.settings}
    work = run.model_copy(update={"trial": f"trial-{request.number}"})
    try:
        method, training = apply(settings, request.method, request.training)
        training = training.model_copy(update={"max_steps": request.steps})
        _, model = trained(work, method, training, request.resources, base_of(run), data_of(run).tokenized, request.seed)
    except StoppedError:
        raise
    except TuneflowError as error:
        reason = str(error).partition("\n")[0]
        return Trial(number=request.number, settings=settings, objectives=(), status="failed", seconds=0.0, reason=reason)
    loss = model.train_loss if model.validation_loss is None else model.validation_loss
    objectives = (Objective(name="validation loss", value=loss), Objective(name="seconds", value=model.seconds))
    return Trial(
        number=request.number,
        settings=settings,
        objectives=objectives,
        status="done",
        seconds=model.seconds,
        run_id=model.run_id,
    )
