"""How soon things happen: from an event to training's first step, from SIGKILL to noticed and to resumed. Prints a table.

    .venv/bin/python benchmarks/reaction.py [--workspace DIR]

`tuneflow up` with one stand-in for a device; the quickstart's base model and data, in DIR or a new folder. Each figure is one
measurement on this machine, to the half second.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tasks.process import carrying  # noqa: E402  (the project's root is not on the path before)
from tests.api import Api  # noqa: E402
from tests.servers import BIN, free_port, user_environment  # noqa: E402

Row = tuple[str, str, float]


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="with the quickstart's base model; default: a new folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = (options.workspace or Path(folder) / "workspace").resolve()
        _tuneflow("run", str(ROOT / "examples" / "quickstart.yaml"), workspace=workspace)
        port = free_port()
        up = ["up", "--port", str(port), "--mlflow-port", str(free_port()), "--gpu-group", "cpu"]
        started = time.monotonic()
        _tuneflow(*up, workspace=workspace)
        rows: list[Row] = [("tuneflow up", "all services answer", time.monotonic() - started)]
        try:
            api = Api(f"http://127.0.0.1:{port}/api")
            rows += from_event(api, workspace, port)
            rows += from_kill(api, workspace)
            rows += from_killed_command(api, workspace)
        finally:
            started = time.monotonic()
            _tuneflow("down", workspace=workspace)
            rows.append(("tuneflow down", "all services have ended", time.monotonic() - started))
    print("| from | to | seconds |\n|---|---|---:|")
    for start, end, seconds in rows:
        print(f"| {start} | {end} | {seconds:.1f} |")


def from_event(api: Api, workspace: Path, port: int) -> list[Row]:
    """An event of another pipeline, with data that the workspace has not seen."""
    data = workspace / "published.jsonl"
    lines = [
        {"instruction": f"Add {a} and {b}, at {time.time():.0f}.", "output": str(a + b)} for a in range(30) for b in range(9)
    ]
    data.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    payload = {"name": "published", "address": str(data)}
    code = (
        "import time; from prefect.events import emit_event; print(time.time(), flush=True); "
        f"emit_event('dataset.published', resource={{'prefect.resource.id': 'dataset.new'}}, payload={payload})"
    )
    variables = {
        **user_environment(),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_HOME": str(workspace / "client"),
    }
    deployment = api.deployment("finetune/finetune-on-dataset")["id"]
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
    before = {run["id"] for run in api.post("/flow_runs/filter", wanted)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    emitted = float(done.stdout)
    (run,) = _until(lambda: [run for run in api.post("/flow_runs/filter", wanted) if run["id"] not in before])
    made = time.time() - emitted
    _until(lambda: api.state(run["id"]) == "Running")
    running = time.time() - emitted
    _until(lambda: api.child(run["id"], "train") or _below(api, run["id"], "train"))
    asked = time.time() - emitted
    log = workspace / "runs" / "published" / "logs" / "train.log"
    _until(lambda: log.exists() and '"metrics"' in log.read_text())
    stepped = time.time() - emitted
    _until(lambda: api.state(run["id"]) in ("Completed", "Failed", "Crashed"))
    return [
        ("event emitted", "flow run made", made), ("", "flow run Running", running),
        ("", "data tokenized, training asked for on the pool gpu", asked), ("", "training's first step", stepped),
        ("", f"run {api.state(run['id'])}", time.time() - emitted),
    ]  # fmt: skip


def from_kill(api: Api, workspace: Path) -> list[Row]:
    """SIGKILL to the process of a deployed run in the middle of training."""
    run_id = api.start("finetune/finetune", _long("resumed"))
    log = workspace / "runs" / "resumed" / "logs" / "train.log"
    _until(lambda: log.exists() and '"checkpoint"' in log.read_text())
    tag = f"TUNEFLOW_RUN={json.loads((workspace / 'runs/resumed/values/context.json').read_text())['run_id']}"
    for pid in carrying(f"PREFECT__FLOW_RUN_ID={run_id}"):
        os.kill(pid, signal.SIGKILL)
    killed = time.time()
    before = log.read_text().count('"started"')
    rows: list[Row] = []

    def note(what: str, reached: Callable[[], Any]) -> None:
        _until(reached)
        rows.append(("SIGKILL of a deployed run" if not rows else "", what, time.time() - killed))

    note("noticed: Crashed", lambda: "Crashed" in api.history(run_id))
    note("no process computes", lambda: not carrying(tag))
    note("slots free", lambda: api.slots() == 0)
    note("taken up again: Running", lambda: api.history(run_id).count("Running") == 2)
    note("training goes on from its checkpoint", lambda: log.read_text().count('"started"') > before)
    api.set_state(run_id, "CANCELLING")
    _until(lambda: api.state(run_id) == "Cancelled")
    return rows


def from_killed_command(api: Api, workspace: Path) -> list[Row]:
    """SIGKILL to a `tuneflow run`, of which the server learns nothing."""
    request = workspace / "killed.json"
    request.write_text(json.dumps(_long("killed")))
    command = [str(BIN / "tuneflow"), "run", str(request), "--workspace", str(workspace)]
    process = subprocess.Popen(command, env=user_environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    log = workspace / "runs" / "killed" / "logs" / "train.log"
    _until(lambda: log.exists() and '"checkpoint"' in log.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = time.time()
    run_id = json.loads((workspace / "runs/killed/values/context.json").read_text())["flow_run_id"]
    _until(lambda: api.state(run_id) == "Crashed")
    return [("SIGKILL of a `tuneflow run`", "noticed: Crashed", time.time() - killed)]


def _long(name: str) -> dict[str, Any]:
    rate = 1e-4 * (1 + crc32(f"{name}{time.time()}".encode()) % 1000 / 1e5)  # equal trainings would share their cache
    training = {"max_steps": 4000, "max_length": 256, "learning_rate": rate, "advanced": {"checkpoint_steps": 20}}
    return {
        "name": name,
        "base_model": {"uri": "models/quickstart-base"},
        "data": {"source": "quickstart:"},
        "training": training,
    }


def _below(api: Api, run_id: str, flow: str) -> Any:
    return next((found for child in api.children(run_id) if (found := api.child(child["id"], flow))), None)


def _until(reached: Callable[[], Any], seconds: float = 600) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s")
        time.sleep(0.25)
    return found


def _tuneflow(*arguments: str, workspace: Path) -> None:
    command = [str(BIN / "tuneflow"), *arguments, "--workspace", str(workspace)]
    done = subprocess.run(command, env=user_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
