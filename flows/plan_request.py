"""`tuneflow plan`: what a request would train with, how long that takes and what it costs, here and on rented machines."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError, RequestError

if TYPE_CHECKING:
    from flows.request import FinetuneRequest
    from tasks.contracts import ModelRef, RunContext
    from tasks.resources.spec import Workload


def plan_request(request: "FinetuneRequest", workspace: Path) -> dict[str, Any]:
    """The plan for this machine or why there is none, and the machines of the price list.

    Raises:
        InputError: the model is not at hand, or the request cannot work on any machine.
    """
    from flows.workload import OTHERS
    from tasks.contracts import RunContext
    from tasks.resources.fitting import Wanted
    from tasks.resources.hardware import find_machine
    from tasks.resources.offers import read_offers
    from tasks.resources.pareto import compare_offers
    from tasks.resources.planning import plan_training
    from tasks.resources.steps import past_of

    run = RunContext(
        name=request.name, workspace=str(workspace), store=request.store, tracking=request.tracking,
        hub=request.base_model.hub, encryption=request.data.encryption,
    )  # fmt: skip
    base, machine, listed = _base(request, run), find_machine(), read_offers(request.resources.offers)
    if problem := request.method.check(base):
        raise RequestError(problem + ".")
    wanted = Wanted(base, request.method, _work(request, run, base))
    found: dict[str, Any] = {"plan": None, "refused": "", "dated": listed.dated}
    try:
        plan = plan_training(request.resources, machine, wanted, past=past_of(run, machine), others=OTHERS)
        found["plan"] = plan.model_dump(mode="json")
    except InputError as error:
        found["refused"] = str(error)
    found["offers"] = [asdict(row) for row in compare_offers(request.resources, wanted, listed)]
    return found


def _base(request: "FinetuneRequest", run: "RunContext") -> "ModelRef":
    from tasks.basemodel import inspect_model
    from tasks.steps import hub_token, tracker_of

    spec = request.base_model
    base = inspect_model(
        spec.uri, spec.revision, Path(run.workspace), lambda: tracker_of(run), hub_token(run), spec.trust_remote_code
    )
    if base is None:
        raise RequestError(
            f"The model {spec.uri} is on the hub, but not here yet. Run the request, or fetch the model, and plan then."
        )
    return base


def _work(request: "FinetuneRequest", run: "RunContext", base: "ModelRef") -> "Workload":
    """What the training computes: by the run's prepared data where there are any."""
    from flows.quickstart import DATA
    from flows.workload import guessed, workload
    from tasks.contracts import PreparedData
    from tasks.data.loading import source_digests
    from tasks.records import recall_if_known
    from tasks.steps import store_of

    if data := recall_if_known(store_of(run), run.name, "data", PreparedData):
        return workload(request.training, request.method, data.tokenized)
    size = 2**20 if request.data.source == DATA else sum(size for _, _, size in source_digests(request.data, {}))
    return guessed(request.training, request.method, base, size)


def console(found: dict[str, Any]) -> str:
    """The plan and the machines as text."""
    lines = [*_plan_lines(found["plan"]), *([found["refused"], ""] if found["refused"] else [])]
    if not found["offers"]:
        return "\n".join([*lines, "No machine of the price list holds this training."])
    head = f"Rented machines that hold it, by list prices of {found['dated']} (* no other is better in all three):"
    lines += [head, f"  {'machine':32} {'hours':>9} {'USD':>10} {'kWh':>9} {'kg CO2':>8} {'GiB':>7}  settings"]
    return "\n".join([*lines, *(_offer_line(row) for row in found["offers"])])


def _plan_lines(plan: dict[str, Any] | None) -> list[str]:
    if plan is None:
        return []
    figures = (
        f"Forecast: {plan['hours']:.3g} hours, {plan['memory_gib']:.2f} GiB a device, {plan['cost_usd']:.2f} USD, "
        f"{plan['energy_kwh']:.3g} kWh, {plan['carbon_kg']:.3g} kg CO2"
    )
    return [f"On {plan['devices']} x {plan['device_name']}:", *(f"  - {reason}" for reason in plan["reasons"]), figures, ""]


def _offer_line(row: dict[str, Any]) -> str:
    mark = "*" if row["best"] else " "
    return (
        f"{mark} {row['machine']:32} {row['hours']:9.3g} {row['cost_usd']:10.2f} {row['energy_kwh']:9.3g} "
        f"{row['carbon_kg']:8.3g} {row['memory_gib']:7.1f}  {row['setting']}"
    )


def print_plan(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """Print it as text, or as one JSON line."""
    print(json.dumps(found) if options.json else console(found))  # noqa: T201
