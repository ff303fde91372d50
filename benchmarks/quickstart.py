"""Where the quickstart's seconds go, stage by stage, and Prefect's own share of them. Prints a Markdown table.

    make bench            or: .venv/bin/python benchmarks/quickstart.py [--repeats 3]

Prefect's share is measured: the finished run is repeated from the cache, once as it is, once with the signs of life that a
server which runs is sent, and once with Prefect's decorators taken away, in turn, so that all do the same reading, hashing and
MLflow writing and differ in Prefect alone. What it adds hangs on the number of steps, not on how long they compute, so the
same seconds count in the first run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUEST = ROOT / "examples" / "quickstart.yaml"
_TIMED = """
import os, sys, time
from pathlib import Path
from flows.environment import set_environment
set_environment(Path(os.environ["WORKSPACE"]))
if os.environ["MODE"] == "bare":
    import prefect, prefect.artifacts, prefect.events
    def bare(function=None, **_):
        return function if function is not None else bare
    prefect.flow = prefect.task = bare
    prefect.artifacts.create_markdown_artifact = prefect.events.emit_event = lambda *_, **__: None
    import tasks.reporting.steps
    tasks.reporting.steps.belongs_to = lambda _: True  # a stage knows its run by its flow run, and there is none
from contextlib import nullcontext
from flows.embedded import prefect_api, signs_of_life
with prefect_api(Path(os.environ["WORKSPACE"])) as start:
    from flows.reading import read_request
    from flows.finetune import finetune
    request = read_request(Path(os.environ["REQUEST"]))
    started = time.perf_counter()
    if os.environ["MODE"] != "bare":
        start()
    served = time.perf_counter() - started
    started = time.perf_counter()
    with nullcontext() if os.environ["MODE"] == "watched" else signs_of_life():
        finetune(request)
    print(served, time.perf_counter() - started)
"""


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of the cached run, each way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        first, whole = _run(workspace)
        _, again = _run(workspace)
        cached: dict[str, list[tuple[float, float]]] = {"embedded": [], "watched": [], "bare": []}
        for _ in range(options.repeats):
            for mode, found in cached.items():
                found.append(_cached(workspace, mode))
        base = sorted((workspace / "runs" / "quickstart-base" / "steps").glob("*.json"), key=lambda path: path.stat().st_mtime)
        _print(first, [json.loads(path.read_text()) for path in base], whole, again, cached)


def _run(workspace: Path) -> tuple[dict, float]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "run", str(REQUEST), "--workspace", str(workspace), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - started


def _cached(workspace: Path, mode: str) -> tuple[float, float]:
    """(seconds until the server answers, seconds of the flow) of a run from the cache."""
    variables = {**os.environ, "WORKSPACE": str(workspace), "REQUEST": str(REQUEST), "MODE": mode}
    done = subprocess.run(
        [sys.executable, "-c", _TIMED], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True
    )
    served, flow = done.stdout.split()[-2:]
    return float(served), float(flow)


def _print(
    first: dict,
    base: list[dict],
    whole: float,
    again: float,
    cached: dict[str, list[tuple[float, float]]],
) -> None:
    rows = [(f"base model: {step['step']}", step["seconds"]) for step in base]
    rows += [(step["step"], step["seconds"]) for step in first["steps"]]
    server = statistics.median(served for served, _ in cached["embedded"])
    flow = {mode: statistics.median(flow for _, flow in found) for mode, found in cached.items()}
    # Building the base model calls as many tasks again as the cached run did, but no flow.
    prefect = (flow["embedded"] - flow["bare"]) * (1 + len(base) / len(first["steps"]))
    watched = prefect + flow["watched"] - flow["embedded"]
    accounted = sum(seconds for _, seconds in rows)
    rows += [("Prefect: its embedded server starts", server), ("Prefect: flows, tasks and their states", prefect)]
    rows += [("imports, checks, MLflow's own runs, report", whole - accounted - server - prefect), ("whole command", whole)]
    print("| what | seconds | share |\n|---|---:|---:|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.1f} | {seconds / whole:.1%} |")
    print(f"\nThe same command again, every step from the cache: {again:.1f} s.")
    shares = f"{(server + prefect) / whole:.1%} with its embedded server, {watched / whole:.1%} with a server that runs"
    print(f"Prefect's share: {shares}.")


if __name__ == "__main__":
    main()
