"""One training on every machine of the price list, by cost, time and energy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.resources import cost
from tasks.resources.fitting import Wanted, find_fit, rented
from tasks.resources.offers import PriceList
from tasks.resources.spec import ResourceSpec

_SPOT_LOSS = 1.1  # times as long, since work since the last checkpoint is done again where a machine is taken away


@dataclass(frozen=True)
class Row:
    """One machine, and what the training would take on it.

    Attributes:
        best: whether no other is better in cost, time and energy at once.
    """

    machine: str
    hours: float
    cost_usd: float
    energy_kwh: float
    carbon_kg: float
    memory_gib: float
    setting: str
    best: bool = False


def compare_offers(spec: ResourceSpec, wanted: Wanted, listed: PriceList) -> list[Row]:
    """The machines that hold the training, the cheapest first; what they reach of their speed is assumed alike.

    Raises:
        RequestError: the region is unknown.
    """
    rows = list(_rows(spec, wanted, listed))
    marked = [Row(**{**vars(row), "best": not _beaten(row, rows)}) for row in rows]
    return sorted(marked, key=lambda row: (row.cost_usd, row.hours))


def _rows(spec: ResourceSpec, wanted: Wanted, listed: PriceList) -> Iterator[Row]:
    free = spec.model_copy(update={"devices": "auto", "nodes": 0, "hosts": [], "precision": "auto"})
    grams = listed.grams(spec.region)
    for offer in listed.devices:
        for count in offer.counts:
            place = rented(offer, count)
            fit, _ = find_fit(free, wanted, place)
            if fit is None:
                continue
            setup = fit.setup
            work = cost.Work(wanted.work.tokens, wanted.work.validated, wanted.work.longest)
            total = cost.operations(wanted.base, fit.footprint.weights, work, setup.checkpointing)
            hours = cost.hours_of(total, offer.teraflops * 1e12, "cuda", count, setup.offload != "none")
            energy = hours * count * offer.watts / 1000
            words = [f"micro-batch {setup.rows}", f"ZeRO {setup.zero_stage}"]
            words += ["checkpointing"] if setup.checkpointing else []
            words += [f"offload {setup.offload}"] if setup.offload != "none" else []
            for kind, usd, times in (("on demand", offer.on_demand, 1.0), ("spot", offer.spot, _SPOT_LOSS)):
                yield Row(
                    f"{count} x {offer.name}, {kind}", hours * times, hours * times * count * usd, energy * times,
                    energy * times * grams / 1000, fit.parts.total, ", ".join(words),
                )  # fmt: skip


def _beaten(row: Row, rows: Sequence[Row]) -> bool:
    """Whether another is nowhere worse, and somewhere better."""
    mine = (row.cost_usd, row.hours, row.energy_kwh)
    others = ((other.cost_usd, other.hours, other.energy_kwh) for other in rows)
    return any(theirs != mine and all(their <= my for their, my in zip(theirs, mine, strict=True)) for theirs in others)
