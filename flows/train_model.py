"""Tokens in, a trained model out."""

from prefect import flow

from tasks.contracts import HardwarePlan, ModelRef, RunContext, TokenizedDataset, TrainedModel
from tasks.resources.spec import ResourceSpec
from tasks.resources.steps import plan_hardware
from tasks.training.methods import Method
from tasks.training.schedule import training_forecast
from tasks.training.spec import TrainingSpec
from tasks.training.steps import train_once


@flow(name="train-model", flow_run_name="train {run.name}", validate_parameters=False)
def train_model(
    run: RunContext,
    method: Method,
    training: TrainingSpec,
    resources: ResourceSpec,
    base: ModelRef,
    data: TokenizedDataset,
    seed: int,
) -> tuple[HardwarePlan, TrainedModel]:
    """Plan the hardware, then train."""
    tokens, reasons = training_forecast(training, data, adapter=method.adapter)
    plan = plan_hardware(
        run, resources, base, data, method.trainable_parameters(base), training.batch_size, training.micro_batch_size,
        tokens, training.advanced.activation_checkpointing, reasons,
    )  # fmt: skip
    model = train_once(run, method, training, plan, base, data, seed)
    # The content is the same by the cache's key; the files may have moved since the model was trained.
    return plan, model.model_copy(update={"base": base})
