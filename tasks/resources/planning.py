"""The plan of a training: each choice with the sentence that explains it, and what is possible where nothing fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.contracts import HardwarePlan
from tasks.errors import RequestError
from tasks.resources import choices, cost
from tasks.resources.alternatives import alternatives
from tasks.resources.fitting import Fit, Place, Wanted, find_fit
from tasks.resources.footprint import Method
from tasks.resources.hardware import Machine
from tasks.resources.history import NOTHING, Past
from tasks.resources.memory import GIB, host_gib
from tasks.resources.offers import PriceList, read_offers
from tasks.resources.spec import ResourceSpec
from tasks.resources.tensors import demand_groups, demand_heads, group_sentence

_MOST_BYTES = 32  # a weight, with gradient, moments, copies and what a few tokens add


@dataclass(frozen=True)
class Trial:
    """What a probe measured: the fastest micro-batch that fits, its speed and its peak."""

    micro_batch: int
    tokens_per_second: float  # of one device, in training
    peak_gib: float
    reason: str


def plan_training(
    spec: ResourceSpec,
    machine: Machine,
    wanted: Wanted,
    *,
    rate: float | None = None,
    past: Past = NOTHING,
    trial: Trial | None = None,
    others: Sequence[Method] = (),
) -> HardwarePlan:
    """Everything that is decided before a training starts.

    Args:
        spec: what was asked.
        machine: what there is.
        wanted: what is to be trained.
        rate: operations a second of one device; None measures it.
        past: what earlier trainings say of the forecasts.
        trial: what a probe measured of this plan without one.
        others: methods to be named where this one does not fit.

    Raises:
        RequestError: what was asked for is not there, or does not fit; it names what would.
    """
    listed = read_offers(spec.offers)
    choices.demand_sensible(spec, machine)
    demand_groups(spec, wanted.method, machine)
    demand_heads(spec, wanted.base)
    place, reasons = locate(spec, machine, past)
    fit, least = find_fit(spec, wanted, place)
    if fit is None:
        raise RequestError(_refusal(spec, wanted, place, least, others, listed))
    fit = _as_tried(fit, wanted, trial)
    memory = fit.memory_gib if trial is None else trial.peak_gib
    speed = rate or cost.measure_rate(machine.accelerator, place.precision)
    hours, time_factor, why_time = _hours(wanted, fit, speed, past, trial)
    prices = cost.price(hours, place.devices, spec, machine.accelerator, machine.name, listed)
    setup = fit.setup
    backend: Literal["gloo", "nccl"] = "nccl" if machine.accelerator == "cuda" else "gloo"
    return HardwarePlan(
        accelerator=machine.accelerator, device_name=machine.name, devices=place.devices, nodes=place.nodes,
        hosts=tuple(spec.hosts), least_nodes=max(1, spec.least_nodes), backend=backend,
        threads=max(1, machine.cores * place.nodes // place.devices), tensor_parallel=setup.tensor_parallel,
        zero_stage=setup.zero_stage, micro_batch=setup.rows, accumulation=setup.accumulation, precision=place.precision,
        activation_checkpointing=setup.checkpointing, offload=setup.offload,
        offload_folder=spec.offload_folder if setup.offload == "nvme" else "", memory_gib=memory, hours=prices.hours,
        cost_usd=prices.cost_usd, energy_kwh=prices.energy_kwh, carbon_kg=prices.carbon_kg, time_factor=time_factor,
        memory_factor=memory / fit.parts.total,
        reasons=(
            *reasons, *_fit_reasons(spec, wanted, place, fit, memory, trial), why_time, *past.sentences(wanted.base.parameters),
            f"{backend}: the transport of {'GPUs' if machine.accelerator == 'cuda' else 'CPU processes'}",
            *wanted.work.reasons,
        ),
    )  # fmt: skip


def demand_room(spec: ResourceSpec, machine: Machine, wanted: Wanted, others: Sequence[Method]) -> None:
    """Refuse what does not fit; where a device holds many times what could be needed, nobody looks closer.

    Raises:
        RequestError: it does not fit; the message names what would.
    """
    place, _ = locate(spec, machine)
    if _MOST_BYTES * wanted.base.parameters < place.limit_gib * GIB:
        return
    fit, least = find_fit(spec, wanted, place)
    if fit is None:
        raise RequestError(_refusal(spec, wanted, place, least, others, read_offers(spec.offers)))


def locate(spec: ResourceSpec, machine: Machine, past: Past = NOTHING) -> tuple[Place, list[str]]:
    """Where it is trained, and the sentences of it.

    Raises:
        RequestError: what was asked for is not there.
    """
    each, why_devices = choices.choose_devices(spec, machine)
    nodes, why_nodes = choices.choose_nodes(spec)
    precision, why_precision = choices.choose_precision(spec, machine)
    place = Place(machine, each * nodes, nodes, precision, past.memory)
    return place, [why_devices, *([why_nodes] if why_nodes else []), why_precision]


def _as_tried(fit: Fit, wanted: Wanted, trial: Trial | None) -> Fit:
    if trial is None:
        return fit
    rows = min(trial.micro_batch, fit.share(wanted))
    return replace(fit, setup=replace(fit.setup, rows=rows, accumulation=-(-fit.share(wanted) // rows)))


def _hours(wanted: Wanted, fit: Fit, rate: float, past: Past, trial: Trial | None) -> tuple[float, float, str]:
    """Hours, how many times what arithmetic alone says they are, and the sentence."""
    setup = fit.setup
    work = cost.Work(wanted.work.tokens, wanted.work.validated, wanted.work.longest)
    total = cost.operations(wanted.base, fit.footprint.weights, work, setup.checkpointing)
    plain = cost.hours_of(total, rate, setup.accelerator, setup.devices, setup.offload != "none")
    if trial is not None:
        alone = cost.operations(wanted.base, fit.footprint.weights, replace(work, validated=0), setup.checkpointing)
        hours = wanted.work.tokens / (trial.tokens_per_second * setup.devices) / 3600 * (total / alone)
        return hours, hours / plain, f"time: by the {trial.tokens_per_second:,.0f} tokens a second of the probe"
    share = cost.EFFICIENCY[setup.accelerator] / past.time
    return plain * past.time, past.time, f"time: {total:.3g} operations at {share:.0%} of {rate / 1e12:.3g} Tflop/s a device"


def _fit_reasons(spec: ResourceSpec, wanted: Wanted, place: Place, fit: Fit, memory: float, trial: Trial | None) -> list[str]:
    """One sentence for each choice that memory decides."""
    setup, over = fit.setup, ", ".join(f"{name} would need {gib:.1f} GiB" for name, gib in fit.passed_over.items())
    tighter = f": {over}, of {place.limit_gib:.1f} GiB" if over else ""
    reasons = [group_sentence(fit.footprint.weights, setup.tensor_parallel, setup.groups)] if setup.tensor_parallel > 1 else []
    reasons.append(choices.stage_sentence(spec, setup.zero_stage, setup.groups, tighter))
    if wanted.work.checkpointing != "auto":
        reasons.append(f"activation checkpointing {wanted.work.checkpointing}: as asked")
    elif setup.checkpointing:
        reasons.append(f"activation checkpointing on, for about a third more time{tighter}")
    else:
        reasons.append("activation checkpointing off: activations fit as they are")
    if setup.offload != "none":
        where = {"cpu": "main memory", "nvme": f"files in {spec.offload_folder}"}[setup.offload]
        room = host_gib(fit.footprint, setup, place.devices // place.nodes)
        why = "as asked" if spec.offload != "auto" else f"nothing else fits{tighter}"
        reasons.append(f"offload {setup.offload}: states in {where} ({room:.0f} GiB of main memory a machine), {why}")
    size = f"about {memory:.2f} GiB of {place.limit_gib:.1f} GiB, rows of up to {wanted.work.longest} tokens"
    if wanted.work.micro_batch_size:
        cut = ", cut to a device's share" if wanted.work.micro_batch_size > setup.rows else ""
        reasons.append(f"micro-batch {setup.rows}: as asked{cut}; {size}")
    elif trial is not None:
        reasons.append(f"micro-batch {setup.rows}: {trial.reason}; {size}")
    else:
        reasons.append(f"micro-batch {setup.rows}: {size}")
    how = f"by arithmetic, since {fit.footprint.doubt}" if fit.footprint.doubt else "by a pass without data"
    reasons.append(f"memory, in GiB {how}: {fit.parts.sentence()}")
    return reasons


def _refusal(
    spec: ResourceSpec, wanted: Wanted, place: Place, least: float, others: Sequence[Method], listed: PriceList
) -> str:
    ways = alternatives(spec, wanted, place, others, listed)
    found = (
        f"Training {wanted.base.uri} with method {wanted.method.kind} on rows of {wanted.work.longest} tokens needs at least "
        f"{least:.1f} GiB a device, and {place.limit_gib:.1f} GiB of a {place.machine.name} can be used"
    )
    if not ways:
        return f"{found}. No smaller length, other method, more devices or rented ones would do either; use a smaller model."
    return f"{found}. What would fit:\n" + "\n".join(f"  - {way}" for way in ways)
