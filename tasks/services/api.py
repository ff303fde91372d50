"""The few questions that `up` asks the services while they start. Standard library, loopback, no proxy."""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from tasks.errors import StageError
from tasks.services.daemons import tail
from tasks.services.state import Daemon, answers

PATIENCE = 240.0  # seconds; a first start makes the database


@dataclass(frozen=True)
class Api:
    """A Prefect server's API.

    Args:
        url: its address, with /api.
        password: user:password; "" for none.
    """

    url: str
    password: str = ""

    def workers(self, pool: str) -> list[dict[str, Any]]:
        """The workers that a pool knows; none where there is no such pool yet."""
        client = uuid4().hex
        token = self._call(f"/csrf-token?client={client}")
        headers = {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token["token"]}
        found: list[dict[str, Any]] = self._call(f"/work_pools/{pool}/workers/filter", {}, headers)
        return found

    def _call(self, path: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
        log_in = base64.b64encode(self.password.encode()).decode()
        asked = urllib.request.Request(  # noqa: S310 - our own server
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Basic {log_in}"} if self.password else {}),
                **(headers or {}),
            },
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=10) as answer:
            return json.load(answer)


def wait_until_answering(services: Sequence[tuple[Daemon, str]], check: Callable[[Daemon], None]) -> None:
    """Wait until every service answers at its address.

    Raises:
        StageError: one ended or did not answer in time; with the end of its log.
    """
    left = list(services)
    _patiently(lambda: [each for each in left if not answers(each[1])], [each[0] for each in left], check)


def wait_until_online(api: Api, workers: Sequence[tuple[Daemon, str]], check: Callable[[Daemon], None]) -> None:
    """Wait until the server has heard from each worker of a (worker, pool).

    Raises:
        StageError: one ended or was not heard of in time; with the end of its log.
    """

    def silent() -> list[tuple[Daemon, str]]:
        try:
            seen = {(pool, each["name"]): each for pool in {pool for _, pool in workers} for each in api.workers(pool)}
        except (urllib.error.URLError, OSError, ValueError):
            return list(workers)
        return [(worker, pool) for worker, pool in workers if not _heard(seen.get((pool, worker.name)), worker)]

    _patiently(silent, [worker for worker, _ in workers], check)


def _heard(found: dict[str, Any] | None, worker: Daemon) -> bool:
    """Whether a worker is online; one of the same name that has ended may still count as such for a while."""
    if not found or found.get("status") != "ONLINE" or not found.get("last_heartbeat_time"):
        return False
    return datetime.fromisoformat(found["last_heartbeat_time"]).timestamp() >= worker.created - 1


def _patiently(
    missing: Callable[[], list[tuple[Daemon, str]]], daemons: Sequence[Daemon], check: Callable[[Daemon], None]
) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := missing():
        for daemon in daemons:
            check(daemon)
        if time.monotonic() > deadline:
            late = left[0][0]
            raise StageError(
                f"{late.name} was not ready within {PATIENCE:.0f} s. What it said last, from {late.log}:\n{tail(late.log)}"
            )
        time.sleep(0.2)
