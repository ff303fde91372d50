"""What would fit where a request does not: each way computed, with its figures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tasks.resources.fitting import Fit, Place, Wanted, find_fit, rented
from tasks.resources.footprint import Method
from tasks.resources.offers import PriceList
from tasks.resources.spec import ResourceSpec

_MOST_DEVICES = 1024
_SHORTEST = 128  # tokens of a row below which nobody would want to go


def alternatives(spec: ResourceSpec, wanted: Wanted, place: Place, others: Sequence[Method], listed: PriceList) -> list[str]:
    """One sentence for each change of the request, or of the machine, with which it fits; the smallest changes first."""
    free = spec.model_copy(update={"zero_stage": "auto", "offload": "auto"})
    eager = wanted.but(micro_batch_size=0, checkpointing="auto")
    found = list(_own(spec, free, wanted, eager, place))
    shorter = wanted.work.longest // 2
    while shorter >= _SHORTEST and not found:
        if fit := find_fit(free, eager.but(longest=shorter), place)[0]:
            found.append(f"training.max_length: {shorter} ({_figures(fit)})")
            break
        shorter //= 2
    for method in others:
        if method.kind != wanted.method.kind and (fit := find_fit(free, replace(eager, method=method), place)[0]):
            found.append(f"method.kind: {method.kind} ({_figures(fit)})")
    found += _more_devices(free, eager, place)
    found += _rented(free, eager, listed)
    return found


def _own(spec: ResourceSpec, free: ResourceSpec, wanted: Wanted, eager: Wanted, place: Place) -> Iterator[str]:
    """Without what was asked for by hand."""
    changes: list[tuple[bool, str, ResourceSpec, Wanted]] = [
        (wanted.work.micro_batch_size > 0, "training.micro_batch_size: 0", spec, wanted.but(micro_batch_size=0)),
        (
            wanted.work.checkpointing == "off",
            "training.advanced.activation_checkpointing: auto",
            spec,
            wanted.but(checkpointing="auto"),
        ),
        (spec.zero_stage != "auto", "resources.zero_stage: auto", spec.model_copy(update={"zero_stage": "auto"}), wanted),
        (spec.offload != "auto", "resources.offload: auto", spec.model_copy(update={"offload": "auto"}), wanted),
        (spec.tensor_parallel > 1, "resources.tensor_parallel: 1", spec.model_copy(update={"tensor_parallel": 1}), wanted),
    ]
    asked = [change for change in changes if change[0]]
    for _, name, changed, less in asked:
        if fit := find_fit(changed, less, place)[0]:
            yield f"{name} ({_figures(fit)})"
            return
    if len(asked) > 1 and (fit := find_fit(free, eager, place)[0]):
        yield f"{', '.join(name for _, name, _, _ in asked)} ({_figures(fit)})"


def _more_devices(spec: ResourceSpec, wanted: Wanted, place: Place) -> list[str]:
    """The fewest devices like these that hold it, by doubling."""
    if place.machine.accelerator == "cpu":
        return []
    devices = place.devices * 2
    while devices <= _MOST_DEVICES:
        nodes = max(1, devices // place.machine.devices)
        if fit := find_fit(spec, wanted, replace(place, devices=devices, nodes=nodes))[0]:
            return [f"{devices} devices like these ({_figures(fit)})"]
        devices *= 2
    return []


def _rented(spec: ResourceSpec, wanted: Wanted, listed: PriceList) -> list[str]:
    """The cheapest machine of the price list that holds it."""
    offers = [(offer.on_demand * count, offer, count) for offer in listed.devices for count in offer.counts]
    for usd, offer, count in sorted(offers, key=lambda each: each[0]):
        place = rented(offer, count)
        if fit := find_fit(spec, wanted, place)[0]:
            return [f"{count} x {offer.name}, about {usd:.2f} USD an hour ({_figures(fit)})"]
    return []


def _figures(fit: Fit) -> str:
    setup = fit.setup
    more = [
        *(["activation checkpointing"] if setup.checkpointing else []),
        *([f"ZeRO {setup.zero_stage}"] if setup.zero_stage else []),
        *([f"offload {setup.offload}"] if setup.offload != "none" else []),
    ]
    return ", ".join([f"about {fit.memory_gib:.1f} GiB a device", f"micro-batch {setup.rows}", *more])
