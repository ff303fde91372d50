"""The training stage's step."""

import logging
import shutil
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.basemodel import find_model
from tasks.caching import flatten
from tasks.contracts import HardwarePlan, ModelRef, RunContext, TokenizedDataset, TrainedModel
from tasks.models import load_tokenizer, local_folder, weights_digest
from tasks.orchestration.steps import stop_reason
from tasks.steps import StepContext, hub_token, step, tracker_of
from tasks.training.attempts import train
from tasks.training.hosts import cluster_of
from tasks.training.job import TrainingJob
from tasks.training.methods import Method
from tasks.training.spec import TrainingSpec

log = logging.getLogger("tuneflow")


@step("train", version=2)
def train_once(
    context: StepContext,
    method: Method,
    spec: TrainingSpec,
    plan: HardwarePlan,
    base: ModelRef,
    data: TokenizedDataset,
    seed: int,
) -> TrainedModel:
    """Train, going on from a checkpoint of the same training where there is one, and after what can be got over."""
    return _trained(context, method, spec, plan, base, data, seed)


@step("train-again", version=1)
def train_again(
    context: StepContext,
    method: Method,
    spec: TrainingSpec,
    plan: HardwarePlan,
    base: ModelRef,
    data: TokenizedDataset,
    seed: int,
    began: float,
) -> TrainedModel:
    """The same training once more; `began`, the time at which that was asked, keeps it from coming out of the cache."""
    return _trained(context, method, spec, plan, base, data, seed)


def _trained(
    context: StepContext,
    method: Method,
    spec: TrainingSpec,
    plan: HardwarePlan,
    base: ModelRef,
    data: TokenizedDataset,
    seed: int,
) -> TrainedModel:
    checkpoints = context.workspace / "checkpoints" / context.key[:24]
    tokenizer = load_tokenizer(context.local(data.tokenizer_uri), base.trust_remote_code)
    job = TrainingJob(
        base=base, train_file=context.local(data.train.uri), validation_file=context.local(data.validation.uri),
        method=method, spec=spec, plan=plan, seed=seed, pad_token_id=tokenizer.pad_token_id, checkpoints=checkpoints,
        out=context.folder, key=context.key, cluster=cluster_of(plan.hosts, plan.devices // plan.nodes, plan.least_nodes),
    )  # fmt: skip
    context.log_parameters(settings_of(method, spec, plan, seed))
    with context.held(plan.accelerator, plan.devices) as holds, context.system_metrics():
        result, course = train(
            job, on_event=context.on_event, on_line=context.on_line, should_stop=stop_reason, log_file=context.log_file,
            on_recovery=lambda course: context.log_metrics({"recoveries": len(course.recoveries)}), tag=context.run.run_id,
            holds=holds,
        )  # fmt: skip
    if result["details"]:
        log.info("train: by part of the model: %s", ", ".join(f"{name} {value:g}" for name, value in result["details"].items()))
    if course.recoveries:  # those of an earlier run of this training among them
        context.log_metrics({"recoveries": len(course.recoveries)})
    plan = course.apply(job).plan
    context.log_metrics({"fill": result["fill"]})
    trained = TrainedModel(
        uri=f"{context.uri}/model", sha256=weights_digest(context.folder / "model"), base=base, data_sha256=data.sha256,
        tokenizer_uri=data.tokenizer_uri, adapter=method.adapter, method=method.kind,
        settings=settings_of(method, spec, plan, seed), plan=plan, seed=seed, steps=result["steps"], tokens=result["tokens"],
        rows=result["rows"], fill=result["fill"], order_sha256=result["order_sha256"],
        trainable_parameters=result["trainable_parameters"], best_step=result["best_step"], train_loss=result["train_loss"],
        validation_loss=result["validation_loss"], seconds=result["seconds"], run_id=context.run_id,
        resumed_from=result["resumed_from"], history_uri=f"{context.uri}/history.jsonl", recoveries=course.recoveries,
        forecast=plan.compare(result["peak_gib"], result["seconds"] / 3600),
    )  # fmt: skip
    # Not before the model is published: a kill in between would lose both.
    context.afterwards.append(lambda: shutil.rmtree(checkpoints, ignore_errors=True))
    return trained


def settings_of(method: Method, spec: TrainingSpec, plan: HardwarePlan, seed: int) -> dict[str, object]:
    """What the training was told, flat."""
    names = ("devices", "tensor_parallel", "zero_stage", "micro_batch", "accumulation", "precision")
    decided = {name: getattr(plan, name) for name in names}
    return flatten({"method": method.model_dump(), "training": spec.model_dump(), "plan": decided, "seed": seed})


@task(name="resolve_model", task_run_name="find {uri}", cache_policy=NO_CACHE, persist_result=False)
def resolve_model(run: RunContext, uri: str, revision: str, trust_remote_code: bool) -> ModelRef:
    """The base model with its files at hand."""
    return find_model(uri, revision, Path(run.workspace), tracker_of(run), hub_token(run), trust_remote_code)


def has_model(run: RunContext, uri: str) -> bool:
    """Whether `uri` is a folder here or in the workspace."""
    return local_folder(uri, Path(run.workspace)) is not None
