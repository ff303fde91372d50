"""The resources stage's step."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from tasks.contracts import HardwarePlan, ModelRef, RunContext, Spec, TrainedModel
from tasks.errors import ChildError, StoppedError
from tasks.orchestration.steps import stop_reason
from tasks.process import Event, child_environment, python_module, run_child
from tasks.resources import probe
from tasks.resources.choices import demand_hosts
from tasks.resources.fitting import Wanted, find_fit
from tasks.resources.footprint import Method
from tasks.resources.hardware import Machine, find_machine
from tasks.resources.history import Past, learn
from tasks.resources.planning import Trial, locate, plan_training
from tasks.resources.spec import ResourceSpec, Workload
from tasks.steps import StepContext, step

log = logging.getLogger("tuneflow")


@step("plan", version=3, environment=lambda: asdict(find_machine()))
def plan_hardware(
    context: StepContext, spec: ResourceSpec, base: ModelRef, method: Spec, work: Workload, others: tuple[Spec, ...]
) -> HardwarePlan:
    """Decide devices, precision, what is divided, where it lies, and batches, each with its reason.

    Args:
        context: of the step.
        spec: what was asked.
        base: the model.
        method: the training method.
        work: what the training computes.
        others: methods to be named where this one does not fit.
    """
    demand_hosts(spec)
    machine, wanted = find_machine(), Wanted(base, _method(method), work)
    past = past_of(context.run, machine)
    trial, why = _probed(context, spec, machine, wanted, past)
    plan = plan_training(spec, machine, wanted, past=past, trial=trial, others=[_method(each) for each in others])
    return plan.model_copy(update={"reasons": (*plan.reasons, why)}) if why else plan


def past_of(run: RunContext, machine: Machine) -> Past:
    """What the trainings of this workspace say of forecasts for this machine."""
    return learn(_models(Path(run.workspace) / "runs"), machine.accelerator, machine.name)


def _models(runs: Path) -> Iterator[TrainedModel]:
    for path in sorted(runs.glob("*/values/model.json")):
        try:
            yield TrainedModel.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError):  # of another version
            log.debug("the plan learns nothing from %s", path)


def _method(method: Spec) -> Method:
    assert isinstance(method, Method)
    return method


def _probed(context: StepContext, spec: ResourceSpec, machine: Machine, wanted: Wanted, past: Past) -> tuple[Trial | None, str]:
    """What a probe measured, or why there was none."""
    if not probe.asks_for_probe(spec, machine):
        return None, ""
    place, _ = locate(spec, machine, past)
    fit, _ = find_fit(spec, wanted, place)
    if fit is None:
        return None, ""  # the plan says so
    wants, why = probe.wants_probe(spec, machine, fit.setup, wanted.work.micro_batch_size)
    if not wants:
        return None, why
    job = probe.job_of(wanted, fit.setup, max(1, machine.cores // (place.devices // place.nodes)), place.limit_gib)
    path, points = context.folder / "probe.json", list[probe.Point]()
    path.write_text(job.model_dump_json(), encoding="utf-8")

    def on_event(event: Event) -> None:
        if event.get("kind") == "probe":
            points.append(probe.Point.model_validate({name: event[name] for name in probe.Point.model_fields}))

    try:
        with context.held(job.accelerator, 1) as holds:
            run_child(
                python_module("tasks.resources.probe", str(path)), on_event=on_event, on_line=context.on_line,
                should_stop=stop_reason, log=context.log_file, holds=holds,
                environment=child_environment(job.accelerator, job.threads, context.run.run_id),
            )  # fmt: skip
    except StoppedError:
        raise
    except ChildError as error:  # the kernel ended it, as a rule for want of memory
        if not points:
            return None, f"no probe: it ended with status {error.returncode}"
    finally:
        path.unlink(missing_ok=True)
    trial = probe.choose(points, place.limit_gib)
    return trial, "" if trial else "no probe: not one row fitted"
