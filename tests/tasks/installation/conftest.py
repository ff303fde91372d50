"""A real Prefect server for the module, `tuneflow setup` against it, a receiver of webhooks, and tiny deployed flows."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tasks.process import companion
from tests.api import BUSY
from tests.servers import BIN, ROOT, prefect_server


@dataclass(frozen=True)
class Api:
    """A server: the environment of its clients, and a workspace."""

    environment: Mapping[str, str]
    workspace: Path

    def call(self, method: str, path: str, content: Any = None) -> Any:
        address = f"{self.environment['PREFECT_API_URL']}{path}"
        for _ in range(20):
            answer = httpx.request(method, address, json=content, timeout=180)
            if answer.status_code != BUSY:
                break
            time.sleep(2)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def names(self, kind: str) -> list[str]:
        """Of all work_pools, automations, ..., sorted."""
        return sorted(found["name"] for found in self.call("POST", f"/{kind}/filter", {}))

    def automation(self, name: str) -> dict[str, Any]:
        found = self.call("POST", "/automations/filter", {"automations": {"name": {"any_": [f"tuneflow: {name}"]}}})
        assert len(found) == 1
        automation: dict[str, Any] = found[0]
        return automation

    def run(self, *options: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows.cli", "setup", "--workspace", str(self.workspace), "--json", *options]
        return subprocess.run(
            command, cwd=ROOT, env=dict(self.environment), capture_output=True, text=True, check=False, timeout=300
        )

    def setup(self, *options: str) -> dict[tuple[str, str], str]:
        """What `tuneflow setup` says of each item."""
        done = self.run(*options)
        assert done.returncode == 0, done.stdout + done.stderr
        items = json.loads(done.stdout.splitlines()[-1])
        assert done.stdout.splitlines()[:-1] == [f"{i['outcome']:7}  {i['what']:10}  {i['name']}" for i in items]
        return {(item["what"], item["name"]): item["outcome"] for item in items}

    def emit(self, *events: dict[str, Any]) -> None:
        """Send events (`event` makes them) together, in this order."""
        self.call("POST", "/events", events)

    def state(self, flow_run_id: str) -> str:
        return str(self.call("GET", f"/flow_runs/{flow_run_id}")["state"]["name"])

    def states(self, flow_run_id: str) -> list[tuple[str, datetime]]:
        """All states that a run was in, with their times."""
        found = self.call("GET", f"/flow_run_states/?flow_run_id={flow_run_id}")
        return [(state["name"], datetime.fromisoformat(state["timestamp"])) for state in found]

    def deploy(self, folder: Path, flow: str, entrypoint: str, tags: list[str]) -> str:
        """A deployment on the pool cpu of a flow in `folder`; its id."""
        flow_id = self.call("POST", "/flows/", {"name": flow})["id"]
        pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
        asked = {
            "name": flow, "flow_id": flow_id, "entrypoint": entrypoint, "pull_steps": pull, "tags": tags,
            "work_pool_name": "cpu",
        }  # fmt: skip
        return str(self.call("POST", "/deployments/", asked)["id"])

    def start(self, deployment: str) -> str:
        """A run of a deployment; its id."""
        scheduled = {"state": {"type": "SCHEDULED"}}
        return str(self.call("POST", f"/deployments/{deployment}/create_flow_run", scheduled)["id"])

    @contextmanager
    def worker(self, log: Path) -> Iterator[None]:
        command = [str(BIN / "prefect"), "worker", "start", "--pool", "cpu", "--name", log.stem]
        variables = {**self.environment, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        with companion(command, environment=variables, log=log, grace_seconds=10):
            yield


def event(what: str, name: str, follows: dict[str, Any] | None = None, **payload: Any) -> dict[str, Any]:
    """An event of the run `name` that happened now, after the event `follows`."""
    return {
        "id": str(uuid4()), "event": what, "payload": payload, "related": [], "follows": (follows or {}).get("id"),
        "resource": {"prefect.resource.id": f"tuneflow.run.{name}", "prefect.resource.name": name},
        "occurred": datetime.now(UTC).isoformat(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("prefect")
    with prefect_server(folder, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30") as environment:
        yield Api(environment, folder / "workspace")


@dataclass
class Receiver:
    """What a webhook was sent."""

    url: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def about(self, word: str) -> list[dict[str, str]]:
        return [message for message in self.messages if word in message["subject"]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    received = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
