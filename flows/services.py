"""The commands up and down: a Prefect server, the MLflow UI and the workers, beside the workspace."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.workspace import workspace_folder

if TYPE_CHECKING:
    from tasks.services.starting import Up

DONE = 0
_UP = """Starts on this machine, each as a process that goes on when the command ends: a Prefect server with its UI, the MLflow
UI, a worker for runs on the CPU and one for each group of GPUs. What runs already stays; what is missing is started.
End it with `tuneflow down`."""
_UP_EPILOG = """environment: PREFECT_API_DATABASE_CONNECTION_URL is the address of the server's PostgreSQL database; better than
--database, since others on this machine see a command line. PREFECT_SERVER_API_AUTH_STRING=user:password gives the server a
password; without one it listens on this machine alone. exit codes: 0 all is up; 2 an option, a port or the database is at
fault, and nothing was started; 1 a service did not start, and what was started has ended."""
_DOWN = """Ends what `tuneflow up` started in this workspace, and nothing else: runs first, with time for a checkpoint, then the
workers, MLflow and the server. A run that was under way goes on from its checkpoint when the same request is started again."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the parser of `tuneflow`."""
    up = commands.add_parser("up", help="start the Prefect server, MLflow and the workers", description=_UP, epilog=_UP_EPILOG)
    up.set_defaults(command=_up)
    server = up.add_argument_group("servers")
    server.add_argument("--host", metavar="ADDRESS", help="where the Prefect server listens; default: 127.0.0.1")
    server.add_argument("--port", type=int, metavar="N", help="of the Prefect server; default: 4200")
    server.add_argument("--mlflow-port", type=int, metavar="N", help="of MLflow, always on 127.0.0.1; default: 5000")
    server.add_argument(
        "--database", default="", metavar="URL",
        help="postgresql+asyncpg://user:password@host:5432/database; default: a SQLite file, for up to 10 runs at a time",
    )  # fmt: skip
    runs = up.add_argument_group("runs")
    runs.add_argument("--cpu-runs", type=int, metavar="N", help="runs at a time on the work pool cpu; default: 4")
    runs.add_argument(
        "--gpu-group", action="append", metavar="LIST", dest="gpu_groups",
        help="GPUs of one worker, which does one run at a time: 0 or 0,1, or cpu for a stand-in that computes on the CPU; "
        "once for each worker; default: one worker with all GPUs, or one stand-in where there are none",
    )  # fmt: skip
    runs.add_argument("--notify", metavar="BLOCK", help="name of the block that gets notices of runs")
    down = commands.add_parser("down", help="end what up started", description=_DOWN)
    down.set_defaults(command=_down)
    for command in (up, down):
        command.add_argument("--workspace", default="", metavar="DIR", help="default: TUNEFLOW_WORKSPACE, else .tuneflow")
        command.add_argument("--json", action="store_true", help="end stdout with one JSON line")


def _up(options: argparse.Namespace) -> int:
    from tasks.services.starting import start_services

    workspace = workspace_folder(options.workspace)
    names = ("host", "port", "mlflow_port", "cpu_runs", "gpu_groups", "notify")
    asked = {name: getattr(options, name) for name in names}
    up = start_services(workspace, asked, options.database, dict(os.environ), _tell)
    facts = _facts(workspace, up)
    _say("Already up." if not up.started else "Up.")
    _say(f"  Prefect    {facts['ui_url']}{'  (log-in: user:password)' if up.services.password else ''}")
    _say(f"  MLflow     {facts['mlflow_url']}")
    _say(f"  database   {facts['database']}")
    _say(f"  workers    {', '.join(facts['workers'])}")
    _say(f"  logs       {facts['logs']}")
    _say(f"End it with: tuneflow down --workspace {workspace}")
    if options.json:
        _say(json.dumps(facts))
    return DONE


def _facts(workspace: Path, up: "Up") -> dict[str, Any]:
    from tasks.services.state import services_folder

    return {
        "api_url": up.spec.api_url,
        "ui_url": up.spec.ui_url,
        "mlflow_url": up.spec.mlflow_url,
        "database": up.services.database,
        "workers": [each.name for each in up.services.daemons if each.role == "worker"],
        "started": list(up.started),
        "logs": str(services_folder(workspace)),
    }


def _down(options: argparse.Namespace) -> int:
    from tasks.services.ending import end_services

    workspace = workspace_folder(options.workspace)
    ended = end_services(workspace, _tell)
    if not ended.services and not ended.runs:
        _say(f"Nothing of {workspace} is up.")
    else:
        _say(f"Ended: {', '.join(ended.services) or 'what was left of them'}.")
    if ended.runs:
        _say(
            f"{ended.runs} run{'' if ended.runs == 1 else 's'} under way ended too. Start the same request again, and it goes "
            f"on where it stopped."
        )
    if options.json:
        _say(json.dumps({"ended": list(ended.services), "runs": ended.runs}))
    return DONE


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
