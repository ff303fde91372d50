"""The fastest way of training that fits the memory there is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tasks.contracts import ModelRef
from tasks.resources import choices
from tasks.resources.choices import Precision, Stage
from tasks.resources.footprint import Footprint, Method
from tasks.resources.hardware import Machine
from tasks.resources.memory import NO_ROWS, Offload, Parts, Setup, host_gib, needed
from tasks.resources.offers import Offer
from tasks.resources.spec import ResourceSpec, Workload
from tasks.resources.tensors import group_problems, group_stages

USABLE = 0.9  # share of a device's memory that a plan may fill
_POSITIONS = 2048  # of a pass, below which a GPU computes less than it can


@dataclass(frozen=True)
class Wanted:
    """What is to be trained: a model, by a method, with so much work."""

    base: ModelRef
    method: Method
    work: Workload

    def but(self, **changes: Any) -> "Wanted":
        """The same with other work."""
        return replace(self, work=self.work.model_copy(update=changes))


@dataclass(frozen=True)
class Place:
    """Where it is trained: so many devices in all on so many machines; peaks there were `factor` times the forecasts."""

    machine: Machine
    devices: int
    nodes: int
    precision: Precision
    factor: float = 1.0

    @property
    def limit_gib(self) -> float:
        """Memory of a device that a plan may fill; the processes of a CPU share its memory."""
        sharing = 1 if self.machine.accelerator == "cuda" else self.devices // self.nodes
        return USABLE * self.machine.memory_gib / sharing


def rented(offer: Offer, count: int) -> Place:
    """One machine of the price list."""
    return Place(offer.machine(count), count, 1, "bf16" if offer.bf16 else "fp32")


@dataclass(frozen=True)
class Fit:
    """A way of training that fits, and what those that were passed over would have needed."""

    setup: Setup
    parts: Parts
    passed_over: dict[str, float]  # the least GiB, by what it was without
    footprint: Footprint
    memory_gib: float  # of a device, corrected by what was measured

    def share(self, wanted: Wanted) -> int:
        """Rows that a device has in one optimizer step."""
        return -(-wanted.work.batch_size // self.setup.groups)


def footprint_of(wanted: Wanted, precision: Precision) -> Footprint:
    """What passes hold."""
    return Footprint(wanted.base, wanted.method, precision, supervised=wanted.work.supervised)


def find_fit(spec: ResourceSpec, wanted: Wanted, place: Place) -> tuple[Fit | None, float]:
    """The fastest way that fits, or None; and the least GiB of a device that any way needs.

    Tried in the order of the time they cost: activations computed twice, weights divided as well, states in main memory, states
    on disk. A way with which a pass has positions enough to keep the device busy is preferred to one without.

    Args:
        spec: what was asked.
        wanted: what is to be trained.
        place: where.
    """
    footprint = footprint_of(wanted, place.precision)
    enough = -(-_POSITIONS // wanted.work.longest) if place.machine.accelerator == "cuda" else 1
    passed_over: dict[str, float] = {}
    small: Fit | None = None
    least = float("inf")
    for setup in _ways(spec, wanted, place):
        rows, parts = _largest(setup, footprint, place.limit_gib / place.factor)
        least = min(least, parts.total * place.factor)
        if parts.total * place.factor > place.limit_gib or not _host_has_room(footprint, setup, place):
            passed_over.setdefault(_name(setup), parts.total * place.factor)
            continue
        fit = Fit(rows, parts, dict(passed_over), footprint, parts.total * place.factor)
        if wanted.work.micro_batch_size or rows.rows >= min(enough, setup.share):
            return fit, least
        passed_over.setdefault(_name(setup), parts.total * place.factor)
        small = small or fit
    return small, least


def _ways(spec: ResourceSpec, wanted: Wanted, place: Place) -> Iterator[Setup]:
    """Every way that may be tried, the fastest first."""
    if group_problems(spec, wanted.method, place.devices // place.nodes, place.precision):
        return
    size = spec.tensor_parallel
    groups = place.devices // size
    stages = choices.possible_stages(spec, *wanted.method.most_divided(), groups)
    if size > 1:
        stages = group_stages(spec, place.precision, groups)
    checkpointing = {"auto": (False, True), "on": (True,), "off": (False,)}[wanted.work.checkpointing]
    share = -(-wanted.work.batch_size // groups)
    rows = min(wanted.work.micro_batch_size, share) or share
    for offload in _offloads(spec, place.machine):
        for stage in stages:
            if not _goes_together(spec, offload, stage, groups):
                continue
            for again in checkpointing:
                yield Setup(
                    accelerator=place.machine.accelerator, precision=place.precision, zero_stage=stage, devices=place.devices,
                    rows=rows, accumulation=-(-share // rows), length=wanted.work.longest, checkpointing=again, offload=offload,
                    quantized=wanted.method.kind == "qlora", moment_bytes=wanted.work.moment_bytes,
                    rows_are_asked=bool(wanted.work.micro_batch_size), share=share, tensor_parallel=size,
                )  # fmt: skip


def _offloads(spec: ResourceSpec, machine: Machine) -> tuple[Offload, ...]:
    if machine.accelerator == "cpu" or spec.tensor_parallel > 1:
        return ("none",)
    if spec.offload != "auto":
        return (spec.offload,)
    return ("none", "cpu", "nvme") if spec.offload_folder else ("none", "cpu")


def _goes_together(spec: ResourceSpec, offload: Offload, stage: Stage, groups: int) -> bool:
    if offload == "none":
        return stage == 0 or groups > 1 or spec.zero_stage != "auto" or spec.tensor_parallel > 1
    return stage == 3 or (stage > 0 and offload == "cpu")


def _largest(setup: Setup, footprint: Footprint, limit_gib: float) -> tuple[Setup, Parts]:
    """The setup with the largest micro-batch that fits, halved from a device's share on; with one row where none fits.

    A pass costs seconds to make for the largest models, and none is made where the weights alone are too many. Between one row
    and all of them the memory is taken to grow in a line, which is never less than it is, but for the step to a mask; what is
    chosen is made.
    """
    one = _with_rows(setup, 1)
    if (floor := needed(footprint, one, NO_ROWS)).total > limit_gib:
        return one, floor
    parts = needed(footprint, setup)
    if setup.rows == 1 or setup.rows_are_asked or parts.total <= limit_gib:
        return setup, parts
    most, rows = parts.total, setup.rows
    least = needed(footprint, one)
    if least.total > limit_gib:
        return one, least
    while rows > 1:
        rows = (rows + 1) // 2
        if least.total + (most - least.total) * (rows - 1) / (setup.rows - 1) > limit_gib:
            continue
        smaller = _with_rows(setup, rows)
        if (parts := needed(footprint, smaller)).total <= limit_gib:
            return smaller, parts
    return one, least


def _with_rows(setup: Setup, rows: int) -> Setup:
    return replace(setup, rows=rows, accumulation=-(-setup.share // rows))


def _host_has_room(footprint: Footprint, setup: Setup, place: Place) -> bool:
    wanted = host_gib(footprint, setup, place.devices // place.nodes)
    return not wanted or not place.machine.host_gib or wanted <= USABLE * place.machine.host_gib


def _name(setup: Setup) -> str:
    again = "with activation checkpointing" if setup.checkpointing else "without activation checkpointing"
    where = "" if setup.offload == "none" else f", states in {'main memory' if setup.offload == 'cpu' else 'files'}"
    return f"ZeRO {setup.zero_stage} {again}{where}"
