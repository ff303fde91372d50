"""A client of Prefect's API for tests."""

import time
from typing import Any
from uuid import uuid4

import httpx

PATIENCE = 4  # times as long as on an idle machine: other tests compute at the same time
BUSY = 503  # of a server whose SQLite file is locked
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class Api:
    """Prefect's API at `address` (.../api), with the token that it asks of writers."""

    def __init__(self, address: str, login: tuple[str, str] | None = None) -> None:
        self.client = httpx.Client(base_url=address, timeout=180, auth=login)
        self.me = str(uuid4())

    def post(self, path: str, content: Any = None) -> Any:
        answer = self.send(path, content)
        assert answer.status_code < 400, f"{path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def patch(self, path: str, content: Any) -> None:
        answer = self.send(path, content, method="PATCH")
        assert answer.status_code < 400, f"{path}: {answer.status_code} {answer.text}"

    def delete(self, path: str) -> None:
        answer = self.send(path, method="DELETE")
        assert answer.status_code < 400, f"{path}: {answer.status_code} {answer.text}"

    def send(self, path: str, content: Any = None, method: str = "POST") -> httpx.Response:
        for _ in range(20):
            token = self.client.get("/csrf-token", params={"client": self.me})
            headers = {"Prefect-Csrf-Client": self.me}
            if token.status_code == 200:
                headers["Prefect-Csrf-Token"] = token.json()["token"]
            answer = self.client.request(method, path, json={} if content is None else content, headers=headers)
            if BUSY not in (token.status_code, answer.status_code):
                break
            time.sleep(2)
        return answer

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        for _ in range(20):
            if answer.status_code != BUSY:
                break
            time.sleep(2)
            answer = self.client.get(path)
        assert answer.status_code < 400, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/deployments/name/{name}")
        return found

    def start(self, name: str, request: dict[str, Any]) -> str:
        """Start a deployment; the flow run's id."""
        path = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        return str(self.post(path, {"parameters": {"request": request}, "state": {"type": "SCHEDULED"}})["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/flow_runs/{run_id}")
        return found

    def state(self, run_id: str) -> str:
        return str(self.run(run_id)["state"]["name"])

    def history(self, run_id: str) -> list[str]:
        """The names of the states that a run has been in."""
        return [state["name"] for state in self.client.get("/flow_run_states/", params={"flow_run_id": run_id}).json()]

    def children(self, run_id: str) -> list[dict[str, Any]]:
        """The flow runs that a flow run started, in their order."""
        wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}, "sort": "START_TIME_ASC"}
        found: list[dict[str, Any]] = self.post("/flow_runs/filter", wanted)
        return found

    def child(self, run_id: str, flow: str) -> dict[str, Any] | None:
        """The newest of those whose name begins with `flow`."""
        found = [child for child in self.children(run_id) if child["name"].startswith(flow)]
        return found[-1] if found else None

    def set_state(self, run_id: str, kind: str, name: str | None = None) -> None:
        self.post(f"/flow_runs/{run_id}/set_state", {"state": {"type": kind, "name": name or kind.title()}, "force": False})

    def wait(self, run_id: str, wanted: str, seconds: float) -> dict[str, Any]:
        """Wait for a state by name, `seconds` on an idle machine; an AssertionError with the log where it ends otherwise."""
        deadline = time.monotonic() + seconds * PATIENCE
        while True:
            run = self.run(run_id)
            if run["state"]["name"] == wanted:
                return run
            over = run["state"]["type"] in FINAL and wanted not in ("AwaitingRetry", "Running", "Scheduled")
            if (over and run["state"]["type"] != "CRASHED") or time.monotonic() > deadline:
                raise AssertionError(
                    f"{run['name']} is {run['state']['name']}, not {wanted}: {run['state']['message']}\n" + self.log(run_id)
                )
            time.sleep(0.5)

    def log(self, run_id: str) -> str:
        """A run's log, its children's below it."""
        wanted = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        lines = [f"{line['timestamp'][11:19]} {line['message']}" for line in self.post("/logs/filter", wanted)]
        below = [f"--- {child['name']}\n{self.log(child['id'])}" for child in self.children(run_id)]
        return "\n".join([*lines, *below])

    def slots(self, name: str = "gpu") -> int:
        """Slots of a global concurrency limit that are taken."""
        return int(self.get(f"/v2/concurrency_limits/{name}")["active_slots"])
