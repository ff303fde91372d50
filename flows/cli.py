"""The command `tuneflow`: reads a request, calls the flows, prints the outcome. Heavy imports happen inside the commands."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flows import install, services
from tasks.errors import InputError, StageError, TuneflowError
from tasks.workspace import workspace_folder

if TYPE_CHECKING:
    from flows.request import FinetuneRequest

P = TypeVar("P")
R = TypeVar("R")
DONE, FAILED, NOT_GOOD_ENOUGH = 0, 1, 3
_EPILOG = """exit codes: 0 done and the verdict passed; 3 done, but not good enough, and nothing was released;
2 the input is at fault, and the message says how to mend it; 1 anything else."""
_EPILOG_PREPARE = "exit codes: 0 done; 2 the input is at fault, and the message says how to mend it; 1 anything else."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except TuneflowError as error:
        print(f"{'Error' if isinstance(error, InputError) else 'Failed'}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on where it stopped.", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tuneflow", description="A dataset and an open base model in, an evaluated and released model out.", epilog=_EPILOG
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a request from data to released model", epilog=_EPILOG)
    run.set_defaults(command=_run)
    check = commands.add_parser("check", help="check a request, its data and its model; spend no compute", epilog=_EPILOG)
    check.set_defaults(command=_check)
    prepare = commands.add_parser("prepare", help="prepare the data of a request alone, and show them", epilog=_EPILOG_PREPARE)
    prepare.set_defaults(command=_prepare)
    plan = commands.add_parser(
        "plan", help="say how a request would be trained, how long and at what cost", epilog=_EPILOG_PREPARE
    )
    plan.set_defaults(command=_plan)
    for command in (run, check, prepare, plan):
        command.add_argument("request", type=Path, help="request file (YAML or JSON)")
        command.add_argument(
            "--set", action="append", default=[], metavar="PATH=VALUE", dest="settings",
            help="set one value of the request, e.g. training.epochs=3; may be repeated",
        )  # fmt: skip
    explain = commands.add_parser("explain", help="say for each step of a run why it ran or did not")
    explain.set_defaults(command=_explain)
    explain.add_argument("run", help="name of the run")
    reproduce = commands.add_parser("reproduce", help="train a run's model again, and say how far it comes out the same")
    reproduce.set_defaults(command=_reproduce)
    reproduce.add_argument("run", help="name of the run")
    reproduce.add_argument("--store", default="", metavar="BLOCK", help="the run's store block; default: the workspace")
    for command in (run, check, prepare, plan, explain, reproduce):
        command.add_argument("--workspace", default="", metavar="DIR", help="default: TUNEFLOW_WORKSPACE, else .tuneflow")
        command.add_argument("--json", action="store_true", help="end stdout with one JSON line, the result")
    schema = commands.add_parser("schema", help="print the JSON schema of a request")
    schema.set_defaults(command=_schema)
    services.add_commands(commands)
    install.add_commands(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    with _prefect(options) as start:
        request = _checked(options, start, lambda request: request)
        from flows.finetune import finetune

        result = _started(finetune, request)
    from tasks.reporting.report import console_table

    print(result.model_dump_json() if options.json else console_table(result))
    return DONE if result.status == "released" else NOT_GOOD_ENOUGH


def _prepare(options: argparse.Namespace) -> int:
    began = time.time()
    with _prefect(options) as start:
        from flows.stage_requests import preparing

        request = _checked(options, start, lambda request: preparing(request).whole())
        from flows.prepare_data import prepare_data

        data = _started(prepare_data, preparing(request))
    from tasks.contracts import RunContext
    from tasks.reporting.data_summary import console_table
    from tasks.reporting.steps import steps_of

    run = RunContext(name=request.name, workspace=str(workspace_folder(options.workspace)), started=began)
    print(data.model_dump_json() if options.json else console_table(run.name, data, steps_of(run), run.folder))
    return DONE


def _checked(
    options: argparse.Namespace, start: Callable[[], str], part: Callable[["FinetuneRequest"], "FinetuneRequest"]
) -> "FinetuneRequest":
    """The part of the request that is wanted, checked, and Prefect's API brought up."""
    from flows.check_request import check_request
    from flows.reading import read_request

    request = part(read_request(options.request, options.settings))
    if request.names_blocks():
        start()
    _tell("checking the request, the data and the model")
    check_request(request)
    _tell(f"Prefect: {start()}")
    return request


def _started(flow: Callable[[P], R], request: P) -> R:
    """What a flow makes of a request.

    Raises:
        StageError: the run was stopped.
    """
    from prefect import tags
    from prefect.exceptions import CancelledRun

    from flows.embedded import signs_of_life

    try:
        with tags("tuneflow"), signs_of_life():  # the automations of a server look after runs of this tag
            return flow(request)
    except CancelledRun as error:
        raise StageError(f"The run was stopped: {error}. The same command goes on where it stopped.") from error


def _check(options: argparse.Namespace) -> int:
    with _prefect(options) as start:
        from flows.check_request import inspect
        from flows.reading import read_request

        request = read_request(options.request, options.settings)
        if request.names_blocks():
            start()
        report, errors = inspect(request)
    if options.json:
        print(report.model_dump_json())
    else:
        for check in report.checks:
            print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:10} {check.found}")
    return errors[0].exit_code if errors else DONE


def _plan(options: argparse.Namespace) -> int:
    with _prefect(options) as start:
        from flows.plan_request import plan_request, print_plan
        from flows.reading import read_request

        request = read_request(options.request, options.settings)
        if request.names_blocks():
            start()
        found = plan_request(request, workspace_folder(options.workspace))
    print_plan(options, found)
    return InputError.exit_code if found["refused"] else DONE


def _explain(options: argparse.Namespace) -> int:
    runs = workspace_folder(options.workspace) / "runs"
    steps = [json.loads(path.read_text(encoding="utf-8")) for path in (runs / options.run / "steps").glob("*.json")]
    if not steps:
        known = sorted({path.parent.parent.name for path in runs.glob("*/steps/*.json")})
        raise InputError(f"There is no run {options.run!r} in {runs}. Known: {', '.join(known) or 'none'}.")
    steps.sort(key=lambda step: step["at"] or float("inf"))
    if options.json:
        print(json.dumps(steps))
        return DONE
    for step in steps:
        what = "cached" if step["cached"] else "ran" if step["at"] else "broke off"
        print(f"{what:9} {step['step']:20} {step['seconds']:8.1f} s  {step['reason']}")
    return DONE


def _reproduce(options: argparse.Namespace) -> int:
    with _prefect(options) as start:
        _tell(f"Prefect: {start()}")
        from flows.reproduce import reproduce
        from flows.stage_requests import StageRequest

        found = _started(reproduce, StageRequest(run=options.run, store=options.store))
    if options.json:
        print(found.model_dump_json())
    else:
        for check in found.checks:
            sign, first = "same " if check.same else "OTHER", check.first[:12] or "not noted"
            print(f"{sign}  {check.name:12} {first:12}  {check.again[:12]}")
        print(f"{found.level}: {found.reason}")
    return DONE if found.level != "none" else NOT_GOOD_ENOUGH


def _schema(_options: argparse.Namespace) -> int:
    from flows.request import FinetuneRequest

    print(json.dumps(FinetuneRequest.model_json_schema(), indent=2))
    return DONE


def _prefect(options: argparse.Namespace) -> AbstractContextManager[Callable[[], str]]:
    """Set up logging and the environment; a context that yields what brings up Prefect's API."""
    from flows.embedded import prefect_api
    from flows.environment import set_environment

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("tuneflow")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    workspace = workspace_folder(options.workspace)
    set_environment(workspace)
    return prefect_api(workspace)


def _tell(text: str) -> None:
    logging.getLogger("tuneflow").info(text)


if __name__ == "__main__":
    sys.exit(main())
