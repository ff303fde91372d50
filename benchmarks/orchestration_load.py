"""How many fine-tuning flows at once a Prefect server carries, on PostgreSQL and on SQLite. Prints Markdown tables.

    .venv/bin/python benchmarks/orchestration_load.py [--flows 100] [--sqlite-flows 20] [--all] [--workers 8] [--json]

The flows have the shape and the names of the real one, four sub-flows with ten tasks and an artifact, and sleep in place of the
work, so that what is measured is Prefect. Real ones run in a process each on machines of their own; a hundred processes here
would measure their imports. So two client processes hold them all as async flows, each flow with an API client of its own, and
the processor seconds of the clients are shown beside those of server and database. A start delay runs from the moment at which
all flows are told to start to the time at which the API says that the flow was Running.

With --workers N, N runs of a deployment are scheduled at once, and a process worker that takes 4 at a time picks them up.
Every server is new, lives in a temporary folder and is gone afterwards.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tasks.process import companion  # noqa: E402
from tests.servers import BIN, postgres, prefect_server, wait_for  # noqa: E402

CLIENTS = 2
AT_ONCE = 4  # runs that the worker takes
TASKS = 15  # task runs of a flow: ten steps, the report, and one for each sub-flow
PATIENCE = 900.0  # seconds for one row
# As in deployments.yaml.
_REAL = {"PREFECT_LOGGING_EXTRA_LOGGERS": "tuneflow", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}


# The flow under load.


async def _work(step: str, seconds: float) -> None:
    """Sleep in place of the work of `step`, as a task with the names of the real one."""

    @task(name=step, task_run_name=step, cache_policy=NO_CACHE, persist_result=False)
    async def run_step(seconds: float) -> None:
        await asyncio.sleep(seconds)

    await run_step(seconds)


@flow(name="prepare-data")
async def prepare_data(seconds: float) -> None:
    """The five stages of the data."""
    for step in ("load", "validate", "clean", "split", "tokenize"):
        await _work(step, seconds)


@flow(name="train-model")
async def train_model(seconds: float) -> None:
    """Plan and train."""
    for step in ("plan", "train"):
        await _work(step, seconds)


@flow(name="assess-model")
async def assess_model(seconds: float) -> None:
    """Evaluate."""
    await _work("evaluate", seconds)


@flow(name="release-model")
async def release_model(seconds: float) -> None:
    """Export and publish."""
    for step in ("export-safetensors", "publish"):
        await _work(step, seconds)


@task(name="write_report", cache_policy=NO_CACHE, persist_result=False)
async def write_report(name: str) -> None:
    """The artifact at the end."""
    await acreate_markdown_artifact(f"# {name}", key="report", description=f"{name}: released")


@flow(name="finetune", flow_run_name="{name}")
async def finetune(name: str, seconds: float) -> None:
    """The shape of the real flow."""
    for part in (prepare_data, train_model, assess_model, release_model):
        await part(seconds)
    await write_report(name)


# One client process: so many flows at once.


def run_client(folder: Path, number: int, flows: int, seconds: float) -> None:
    """Say that this client is ready, wait for the word, run the flows, write what came of them."""
    (folder / f"ready-{number}").touch()
    wait_for((folder / "go").exists, PATIENCE)
    cpu = time.process_time()
    reasons, unfinished = asyncio.run(_run_flows(number, flows, seconds))
    result = {"cpu_seconds": time.process_time() - cpu, "reasons": reasons}
    (folder / f"result-{number}.part").write_text(json.dumps(result), encoding="utf-8")
    (folder / f"result-{number}.part").rename(folder / f"result-{number}")
    if unfinished:
        os._exit(0)  # nothing waits for what is still under way


async def _run_flows(number: int, flows: int, seconds: float) -> tuple[dict[str, int], int]:
    runs = [asyncio.ensure_future(finetune(f"run-{number}-{index}", seconds)) for index in range(flows)]
    done, unfinished = await asyncio.wait(runs, timeout=PATIENCE)
    reasons = Counter(_reason(error) for run in done if (error := run.exception()))
    if unfinished:
        reasons[f"not finished after {PATIENCE:.0f} s"] = len(unfinished)
    return dict(reasons), len(unfinished)


def _reason(error: BaseException) -> str:
    """The first line of an error, without advice and without what differs from run to run."""
    line = (str(error).splitlines() or [""])[0].split(" - Response:")[0]
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", re.sub(r"http://[^/]+", "", line))
    return f"{type(error).__name__}: {line}"


# Rows of the first table.


def measure_load(database: str, flows: int, seconds: float, settings: dict[str, str]) -> dict[str, Any]:
    """Start `flows` flows at once against a new server on `database`."""
    load = os.getloadavg()[0]
    with _server(database, settings) as (folder, environment), ExitStack() as stack:
        counts = [flows // CLIENTS + (number < flows % CLIENTS) for number in range(CLIENTS)]
        alive = []
        for number, count in enumerate(counts):
            command = [sys.executable, __file__, "--client", str(folder), str(number), str(count), str(seconds)]
            log = folder / f"client-{number}.log"
            alive.append(stack.enter_context(companion(command, environment=environment, log=log, grace_seconds=5)))
        _wait_for_files(folder, "ready", alive)
        server_cpu, started = _server_cpu(folder), time.time()
        (folder / "go").touch()
        _wait_for_files(folder, "result", alive)
        wall = time.time() - started
        server_cpu = _server_cpu(folder) - server_cpu
        results = [json.loads((folder / f"result-{number}").read_text()) for number in range(CLIENTS)]
        runs = _flow_runs(environment["PREFECT_API_URL"])
        tasks = _task_runs(environment["PREFECT_API_URL"], TASKS * flows)
    completed = [run for run in runs if run["state_type"] == "COMPLETED"]
    begun = [run for run in runs if run["start_time"]]
    reasons = sum((Counter(result["reasons"]) for result in results), Counter())
    # An error at the very end of a flow that the API has as complete is no failure, and a state may be lost without an error.
    lost = flows - len(completed) - sum(reasons.values())
    if lost > 0:
        reasons["no error, and not Completed for the API"] = lost
    return {
        "database": database,
        "flows": flows,
        "completed": len(completed),
        "start_delay_seconds": _quantiles([_time(run["start_time"]) - started for run in begun]),
        "created_to_running_seconds": _quantiles([_time(run["start_time"]) - _time(run["created"]) for run in begun]),
        "wall_seconds": wall,
        "task_runs_recorded": tasks,
        "task_runs_expected": TASKS * flows,
        "server_cpu_seconds": server_cpu,
        "client_cpu_seconds": sum(result["cpu_seconds"] for result in results),
        "load_before": load,
        "failures": dict(reasons),
    }


@contextmanager
def _server(database: str, settings: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """A new server; yields its folder and the environment of its clients."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestration-load-")))
        variables = {**_REAL, **settings}
        if database == "PostgreSQL":
            variables["PREFECT_API_DATABASE_CONNECTION_URL"] = stack.enter_context(postgres(folder / "postgres"))
        environment = stack.enter_context(prefect_server(folder / "prefect", **variables))
        yield folder, environment


def _wait_for_files(folder: Path, name: str, alive: Sequence[Any]) -> None:
    """Wait until every client has written its file `name`-NUMBER."""

    def all_there() -> bool:
        there = [(folder / f"{name}-{number}").exists() for number in range(len(alive))]
        for number, runs in enumerate(alive):
            log = folder / f"client-{number}.log"
            assert there[number] or runs() or (folder / f"{name}-{number}").exists(), log.read_text()[-3000:]
        return all(there)

    wait_for(all_there, PATIENCE + 120, f"{name} of the clients")


def _server_cpu(folder: Path) -> float:
    """Processor seconds so far of server and database."""
    mine = psutil.Process().children(recursive=True)
    # Clients are children too: they stand still before the word and are counted by themselves.
    processes = [process for process in mine if "--client" not in _command(process)]
    identity = folder / "postgres" / "data" / "postmaster.pid"
    if identity.exists():
        postmaster = psutil.Process(int(identity.read_text().split()[0]))
        processes += [postmaster, *postmaster.children(recursive=True)]
    return sum(_cpu(process) for process in processes)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _flow_runs(api: str) -> list[dict[str, Any]]:
    """Every run of the parent flow, from the API."""
    found: list[dict[str, Any]] = []
    while True:
        body = {"flows": {"name": {"any_": ["finetune"]}}, "limit": 200, "offset": len(found), "sort": "ID_DESC"}
        page = _post(f"{api}/flow_runs/filter", body)
        found += page
        if len(page) < 200:
            return found


def _task_runs(api: str, expected: int) -> int:
    """How many task runs the API has as complete, once the count stands still: the server writes them behind the flows."""
    body = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    before, now = -1, _post(f"{api}/task_runs/count", body)
    while now != before and now < expected:
        time.sleep(10)
        before, now = now, _post(f"{api}/task_runs/count", body)
    return int(now)


def _post(address: str, body: dict[str, Any]) -> Any:
    for _ in range(20):  # SQLite may still be busy
        answer = httpx.post(address, json=body, timeout=60)
        if answer.status_code != 503:
            break
        time.sleep(1)
    answer.raise_for_status()
    return answer.json()


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _quantiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and the greatest."""
    if len(values) < 2:
        values = values * 2 or [float("nan")] * 2
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "max": max(values)}


# The second table: a deployment and a worker.


def measure_worker(runs: int, seconds: float, settings: dict[str, str]) -> dict[str, Any]:
    """Schedule `runs` runs at once; one process worker takes them, `AT_ONCE` at a time. The server is on PostgreSQL."""
    with _server("PostgreSQL", settings) as (folder, environment):
        api = environment["PREFECT_API_URL"]
        pool = [str(BIN / "prefect"), "work-pool", "create", "cpu", "--type", "process"]
        subprocess.run(pool, env=environment, check=True, stdout=subprocess.DEVNULL)
        deploy = [sys.executable, __file__, "--deploy"]
        subprocess.run(deploy, env=environment, check=True, stdout=subprocess.DEVNULL)
        deployment = httpx.get(f"{api}/deployments/name/finetune/load", timeout=60).raise_for_status().json()["id"]
        command = [str(BIN / "prefect"), "worker", "start", "--pool", "cpu", "--limit", str(AT_ONCE)]
        with companion(command, environment=environment, log=folder / "worker.log", grace_seconds=10) as alive:
            wait_for(lambda: _post(f"{api}/work_pools/cpu/workers/filter", {}) or not alive(), 120, "the worker")
            started = time.time()
            for number in range(runs):
                body = {"parameters": {"name": f"run-{number}", "seconds": seconds}, "state": {"type": "SCHEDULED"}}
                _post(f"{api}/deployments/{deployment}/create_flow_run", body)
            ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
            wait_for(lambda: all(run["state_type"] in ended for run in _flow_runs(api)), PATIENCE, "the runs end")
            wall = time.time() - started
        found = _flow_runs(api)
        taken = [delay for run in found for delay in _delays(api, run, "PENDING")[:1]]
        running = [delay for run in found for delay in _delays(api, run, "RUNNING")[:1]]
    failures = Counter(f"{run['state_name']}: {run['state']['message']}" for run in found if run["state_type"] != "COMPLETED")
    return {
        "runs": runs,
        "at_once": AT_ONCE,
        "completed": sum(run["state_type"] == "COMPLETED" for run in found),
        "taken_seconds": _quantiles(taken),
        "running_seconds": _quantiles(running),
        "first_taken_seconds": min(taken, default=float("nan")),
        "first_running_seconds": min(running, default=float("nan")),
        "wall_seconds": wall,
        "failures": dict(failures),
    }


def deploy() -> None:
    """Create the deployment finetune/load in the pool `cpu`."""
    entrypoint = str(Path(__file__).relative_to(ROOT)) + ":finetune"
    finetune.from_source(source=str(ROOT), entrypoint=entrypoint).deploy(  # type: ignore[union-attr]
        name="load", work_pool_name="cpu", job_variables={"stream_output": False}, print_next_steps=False
    )


def _delays(api: str, run: dict[str, Any], state: str) -> list[float]:
    """Seconds from when a run was due to when it came into `state`."""
    states = httpx.get(f"{api}/flow_run_states/", params={"flow_run_id": run["id"]}, timeout=60).raise_for_status().json()
    times = sorted(_time(one["timestamp"]) for one in states if one["type"] == state)
    return [at - _time(run["expected_start_time"]) for at in times]


# What is printed.


def print_loads(rows: list[dict[str, Any]]) -> None:
    """The first table, and under it why flows failed."""
    columns = "database | flows at once | completed | start p50, s | p95, s | max, s | wall, s | task runs recorded"
    print(f"\n| {columns} | processor, s: server and database + clients | load before |")
    print("|---|" + "---:|" * 9)
    for row in rows:
        start = row["start_delay_seconds"]
        cells = [row["database"], row["flows"], row["completed"], *(f"{start[key]:.1f}" for key in ("p50", "p95", "max"))]
        cells += [f"{row['wall_seconds']:.0f}", f"{row['task_runs_recorded']} of {row['task_runs_expected']}"]
        cells += [f"{row['server_cpu_seconds']:.0f} + {row['client_cpu_seconds']:.0f}", f"{row['load_before']:.1f}"]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
    print()
    for row in rows:
        if not row["failures"]:
            print(f"* {row['database']}, {row['flows']} at once: no failure")
        for reason, count in row["failures"].items():
            print(f"* {row['database']}, {row['flows']} at once: {count} times {reason}")


def print_worker(row: dict[str, Any]) -> None:
    """The second table."""
    print("\n| runs scheduled at once | worker's limit | completed | | first, s | p50, s | p95, s | max, s | wall, s |")
    print("|---:|---:|---:|---|---:|---:|---:|---:|---:|")
    for what, key in (("due to taken by the worker", "taken"), ("due to Running", "running")):
        delay = row[f"{key}_seconds"]
        cells = [row["runs"], row["at_once"], row["completed"], what, f"{row[f'first_{key}_seconds']:.1f}"]
        cells += [*(f"{delay[name]:.1f}" for name in ("p50", "p95", "max")), f"{row['wall_seconds']:.0f}"]
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
    for reason, count in row["failures"].items():
        print(f"* {count} times {reason}")


def conclusion(rows: list[dict[str, Any]]) -> str:
    """Which load needs PostgreSQL, in plain sentences, from the rows measured."""
    whole = {(row["database"], row["flows"]): row for row in rows if _is_whole(row)}
    sentences = []
    for row in rows:
        flows, p95 = row["flows"], row["start_delay_seconds"]["p95"]
        if row["database"] != "SQLite":
            continue
        if not _is_whole(row):
            sentences.append(f"{flows} flows at once need PostgreSQL: SQLite completed {row['completed']} of them.")
        elif beside := whole.get(("PostgreSQL", flows)):
            there = beside["start_delay_seconds"]["p95"]
            sentences.append(f"SQLite carries {flows} at once, with a p95 start of {p95:.1f} s; PostgreSQL's is {there:.1f} s.")
        else:
            sentences.append(f"SQLite carries {flows} at once, with a p95 start of {p95:.1f} s.")
    for flows in sorted(flows for database, flows in whole if database == "PostgreSQL")[-1:]:
        sentences.append(f"PostgreSQL carries {flows} at once.")
    carried = [flows for database, flows in whole if database == "SQLite"]
    if carried:
        sentences.append(f"For more than {max(carried)} at once, take PostgreSQL.")
    return " ".join(sentences)


def _is_whole(row: dict[str, Any]) -> bool:
    return bool(row["completed"] == row["flows"] and row["task_runs_recorded"] == row["task_runs_expected"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=100, help="flows at once on PostgreSQL; 0: none")
    parser.add_argument(
        "--sqlite-flows", type=int, default=20, help="flows at once on SQLite, and on PostgreSQL beside it; 0: none"
    )
    parser.add_argument("--all", action="store_true", help="--flows flows on SQLite too")
    parser.add_argument("--only", choices=("PostgreSQL", "SQLite"), help="the flows at once on this database alone")
    parser.add_argument("--workers", type=int, default=0, metavar="RUNS", help="runs scheduled at once for a process worker")
    parser.add_argument("--seconds", type=float, default=1.0, help="what each stage sleeps")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a Prefect setting of clients and server"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the tables")
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--deploy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        folder, number, flows, seconds = options.client
        return run_client(Path(folder), int(number), int(flows), float(seconds))
    if options.deploy:
        return deploy()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end as on Ctrl-C
    settings = dict(pair.split("=", 1) for pair in options.set)
    wanted = [("PostgreSQL", options.flows), ("SQLite", options.sqlite_flows), ("PostgreSQL", options.sqlite_flows)]
    wanted += [("SQLite", options.flows)] if options.all else []
    wanted = [(database, flows) for database, flows in wanted if flows and options.only in (None, database)]
    try:
        rows = []
        for database, flows in wanted:
            rows.append(measure_load(database, flows, options.seconds, settings))
            print(f"{database}, {flows}: {rows[-1]['completed']} completed", file=sys.stderr)
        worker = measure_worker(options.workers, options.seconds, settings) if options.workers else None
    except KeyboardInterrupt:
        sys.exit(130)
    _print(rows, worker, {"seconds": options.seconds, "settings": settings}, as_json=options.json)
    return None


def _print(rows: list[dict[str, Any]], worker: dict[str, Any] | None, how: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({**how, "loads": rows, "worker": worker}))
        return
    print(f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB")
    if rows:
        print_loads(rows)
    if worker:
        print_worker(worker)
    if rows:
        print("\n" + conclusion(rows))


if __name__ == "__main__":
    main()
