"""Everything that can be checked before compute is spent, all problems at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.request import FinetuneRequest
from tasks.contracts import Check, CheckReport, ModelRef, RunContext
from tasks.errors import InputError, RequestError
from tasks.workspace import demand_disk, prepare_workspace, workspace_folder

_LEAST_DISK = 200 * 2**20  # bytes; logs, caches and databases of a small run


def check_request(request: FinetuneRequest) -> CheckReport:
    """Check, and refuse where something is fatal.

    Raises:
        InputError: the one problem there is, or a RequestError that lists them all.
    """
    report, errors = inspect(request)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise RequestError("\n".join(f"{number}. {error}" for number, error in enumerate(errors, 1)))
    return report


def inspect(request: FinetuneRequest) -> tuple[CheckReport, list[InputError]]:
    """Every check's outcome, and the errors among them."""
    workspace = workspace_folder()
    checks: list[Check] = []
    errors: list[InputError] = []

    def attempt(name: str, expected: str, look: Callable[[], str]) -> None:
        try:
            found, passed = look(), True
        except InputError as error:
            errors.append(error)
            found, passed = str(error), False
        checks.append(Check(name=name, passed=passed, severity="fatal", expected=expected, found=found))

    attempt("workspace", "a folder that can be written, on a disk with room", lambda: _workspace(workspace))
    if errors:
        return CheckReport(checks=tuple(checks)), errors
    run = RunContext(
        name=request.name, workspace=str(workspace), store=request.store, tracking=request.tracking,
        hub=request.base_model.hub, encryption=request.data.encryption,
    )  # fmt: skip
    attempt("request", "options that go together", lambda: _request(request))
    attempt("data", "rows that map to conversations", lambda: _data(request))
    attempt("model", "a causal language model in safetensors, with its tokenizer", lambda: _model(request, run))
    attempt("machine", "the devices and the precision that were asked for", lambda: _machine(request))
    if request.resources.machines > 1 or request.resources.hosts:
        attempt("hosts", "reached without a password, with the same files", lambda: _hosts(request, workspace))
    attempt("store", "can be written, read and deleted from", lambda: _store(run))
    attempt("tracking", "can be written to and deleted from", lambda: _tracking(run))
    if run.encryption:
        attempt("encryption", "a block with a key of 32 bytes", lambda: _encryption(run))
    return CheckReport(checks=tuple(checks)), errors


def _workspace(workspace: Path) -> str:
    prepare_workspace(workspace)
    return f"{workspace}; disk: {demand_disk(workspace, _LEAST_DISK, 'A run')}"


def _request(request: FinetuneRequest) -> str:
    from tasks.evaluation.verdict import check
    from tasks.search.checks import check as check_search
    from tasks.training.checks import check as check_training
    from tasks.training.methods import check_formats

    problems = check(request.evaluation) + check_training(request.training, bool(request.data.splitting.validation))
    if request.search.strategy.kind != "none":
        problems += check_search(request.search, request.method, request.training)
        if not request.data.splitting.validation:
            problems.append("data.splitting.validation is 0, but a search compares its trials on validation rows.")
    kinds = [exporter.kind for exporter in request.release.formats]
    if problem := check_formats(request.method, kinds):
        problems.append(problem)
    if len(set(kinds)) < len(kinds):
        problems.append(f"release.formats names a format twice: {', '.join(kinds)}.")
    if problems:
        raise RequestError(" ".join(problems))
    return "they do"


def _data(request: FinetuneRequest) -> str:
    from flows.quickstart import DATA
    from tasks.data.loading import peek
    from tasks.steps import source_options

    if request.data.source == DATA:
        return "the quickstart's own instruction set"
    seen = peek(request.data, source_options(request.data.access))
    _evaluable(request, task=seen.task)
    return f"{len(seen.files)} file(s), {seen.shape}: {seen.reason}"


def _model(request: FinetuneRequest, run: RunContext) -> str:
    from flows.quickstart import BASE
    from tasks.basemodel import inspect_model
    from tasks.models import local_folder
    from tasks.steps import hub_token, tracker_of

    spec = request.base_model
    workspace = Path(run.workspace)
    if spec.uri == BASE and local_folder(BASE, workspace) is None:
        return "will be built: the quickstart's own base model"
    found = inspect_model(spec.uri, spec.revision, workspace, lambda: tracker_of(run), hub_token(run), spec.trust_remote_code)
    if found is None:
        _demand_method(request, None)
        return f"{spec.uri} is on the hub; it is fetched when the run starts"
    _fits(request, found)
    needed = 4 * found.bytes + _kept(request, found) + _LEAST_DISK
    disk = demand_disk(workspace, needed, f"A run with {spec.uri} and its {_checkpoints(request)} checkpoints")
    return f"{found.architecture}, {found.parameters:,} parameters, up to {found.max_positions} tokens; disk: {disk}"


def _kept(request: FinetuneRequest, base: ModelRef) -> int:
    """Bytes of the checkpoints that lie on the disk at once: those kept, and the next until it is proven."""
    from tasks.training.checkpoint import expected_bytes

    return _checkpoints(request) * expected_bytes(request.method.trainable_parameters(base))


def _checkpoints(request: FinetuneRequest) -> int:
    return request.training.advanced.keep_checkpoints + 1


def _fits(request: FinetuneRequest, base: ModelRef) -> None:
    _demand_method(request, base)
    _evaluable(request, max_positions=base.max_positions)
    _holdable(request, base)
    if request.training.max_length > base.max_positions:
        raise RequestError(
            f"training.max_length is {request.training.max_length}, but {base.uri} holds at most {base.max_positions} tokens."
        )


def _demand_method(request: FinetuneRequest, base: ModelRef | None) -> None:
    """Refuse a method that cannot train `base`, or where that is not known, any model."""
    if problem := request.method.check(base):
        raise RequestError(problem + ".")


def _holdable(request: FinetuneRequest, base: ModelRef) -> None:
    """Refuse a training whose weights alone are too many for the memory; what its rows add is known with the data."""
    from flows.workload import OTHERS, smallest
    from tasks.resources.fitting import Wanted
    from tasks.resources.hardware import find_machine
    from tasks.resources.planning import demand_room
    from tasks.resources.tensors import demand_heads

    try:
        _machine(request)
    except RequestError:
        return  # that check tells it
    demand_heads(request.resources, base)
    demand_room(request.resources, find_machine(), Wanted(base, request.method, smallest(request.training)), OTHERS)


def _evaluable(request: FinetuneRequest, task: str = "", max_positions: int = 0) -> None:
    """Refuse an evaluation that these data or this model do not allow."""
    from tasks.evaluation.verdict import check

    general = check(request.evaluation)
    problems = [text for text in check(request.evaluation, task=task, max_positions=max_positions) if text not in general]
    if problems:
        raise RequestError(" ".join(problems))


def _machine(request: FinetuneRequest) -> str:
    from tasks.resources.choices import demand_sensible, possible_stages
    from tasks.resources.hardware import find_machine
    from tasks.resources.offers import read_offers
    from tasks.resources.planning import locate
    from tasks.resources.tensors import demand_groups
    from tasks.training.optimizers import check_group, check_optimizer

    machine, spec = find_machine(), request.resources
    demand_sensible(spec, machine)
    demand_groups(spec, request.method, machine)
    place, reasons = locate(spec, machine)
    possible_stages(spec, *request.method.most_divided(), place.devices)
    read_offers(spec.offers).grams(spec.region)
    optimizer = request.training.advanced.optimizer
    problem = check_optimizer(optimizer, machine.accelerator)
    problem = problem or check_group(optimizer, spec.machines, spec.least_nodes, spec.zero_stage)
    if problem:
        raise RequestError(problem)
    return "; ".join(reasons)


def _hosts(request: FinetuneRequest, workspace: Path) -> str:
    from tasks.resources.choices import demand_hosts
    from tasks.training.hosts import cluster_of, unusable

    demand_hosts(request.resources)
    cluster = cluster_of(request.resources.hosts)
    if cluster and (problems := unusable(cluster, workspace)):
        raise RequestError(" ".join(problems))
    return f"{', '.join(request.resources.hosts)}: all answer"


def _store(run: RunContext) -> str:
    from tasks.steps import store_of

    store = store_of(run)
    store.probe()
    return store.root


def _encryption(run: RunContext) -> str:
    from tasks.steps import data_key

    key = data_key(run)
    return f"the key {key.name} of the block {run.encryption}" if key else "none"


def _tracking(run: RunContext) -> str:
    from tasks.steps import tracker_of

    tracker: Any = tracker_of(run)
    tracker.probe()
    return str(tracker.client.tracking_uri)
