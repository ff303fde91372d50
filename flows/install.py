"""The command setup."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from tasks.errors import InputError

if TYPE_CHECKING:
    from tasks.installation.spec import Item

_ABOUT = """Makes in the Prefect API of PREFECT_API_URL what runs need: pools, limits, block types, automations, deployments.
Run it as often as you like: what is there already is kept, and what differs is changed."""
_ASKED = ("cpu_runs", "gpu_runs", "gpu_devices", "notify", "stall_minutes", "idle_minutes")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the parser of `tuneflow`."""
    setup = commands.add_parser("setup", help="make in a Prefect API what runs need; may be repeated", description=_ABOUT)
    setup.set_defaults(command=_setup)
    setup.add_argument("--workspace", default="", metavar="DIR", help="default: TUNEFLOW_WORKSPACE, else .tuneflow")
    setup.add_argument("--cpu-runs", type=int, default=4, metavar="N", help="runs at a time on the pool cpu; default 4")
    setup.add_argument("--gpu-runs", type=int, default=1, metavar="N", help="runs at a time on the GPU pools; default 1")
    setup.add_argument("--gpu-devices", type=int, default=1, metavar="N", help="GPUs that runs share; default 1")
    setup.add_argument("--notify", default="", metavar="BLOCK", help="make alerts to this block, e.g. slack-webhook/team")
    setup.add_argument("--stall-minutes", type=float, default=30, metavar="N", help="alert: no step for so long; default 30")
    setup.add_argument("--idle-minutes", type=float, default=15, metavar="N", help="least time between idle alerts; default 15")
    setup.add_argument("--json", action="store_true", help="end stdout with one JSON line, the items")


def _setup(options: argparse.Namespace) -> int:
    if not os.environ.get("PREFECT_API_URL"):
        raise InputError(
            "PREFECT_API_URL is not set, so that there is no Prefect API to set up. Start a server with `tuneflow up`, or set "
            "the variable to the address of one, e.g. http://127.0.0.1:4200/api."
        )
    from pydantic import ValidationError

    from flows.environment import set_environment
    from tasks.installation.spec import InstallationSpec
    from tasks.workspace import prepare_workspace, workspace_folder

    workspace = workspace_folder(options.workspace)
    try:
        spec = InstallationSpec(workspace=workspace, **{name: getattr(options, name) for name in _ASKED})
    except ValidationError as error:
        found = [f"--{problem['loc'][0]} {problem['input']}: {problem['msg']}" for problem in error.errors()]
        raise InputError(f"{'; '.join(found).replace('_', '-')}.") from error
    prepare_workspace(workspace)
    set_environment(workspace)
    from tasks.installation.steps import install

    items: list[Item] = []

    def tell(item: "Item") -> None:
        items.append(item)
        sys.stdout.write(item.line() + "\n")
        sys.stdout.flush()

    install(spec, tell)
    if options.json:
        sys.stdout.write(json.dumps([item.model_dump() for item in items]) + "\n")
    return 0
