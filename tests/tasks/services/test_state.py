"""services.json and the identity of processes."""

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from tasks.services.state import (
    Daemon,
    Services,
    forget_services,
    marked,
    read_services,
    running_api,
    runs,
    services_folder,
    write_services,
)
from tests.servers import wait_for

MARK = "0123456789abcdef-state"


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def api() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()
    server.server_close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"TUNEFLOW_SERVICE": MARK})
    wait_for(lambda: marked(MARK), 10)
    yield started
    started.kill()
    started.wait()


def services_with(pid: int, url: str = "") -> Services:
    daemon = Daemon("server", "server", pid, psutil.Process(pid).create_time(), ("python",), "/log", url)
    return Services(MARK, {"port": 1, "gpu_groups": ["cpu"]}, "SQLite, /x", False, (daemon,))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    services = services_with(os.getpid())
    write_services(tmp_path, services)
    assert read_services(tmp_path) == services
    path = services_folder(tmp_path) / "services.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]
    forget_services(tmp_path)
    forget_services(tmp_path)
    assert read_services(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "daemons": [{"name": "x"}]}'])
def test_a_file_that_is_not_ours_counts_as_none(text: str, tmp_path: Path) -> None:
    services_folder(tmp_path).mkdir()
    (services_folder(tmp_path) / "services.json").write_text(text)
    assert read_services(tmp_path) is None
    assert running_api(tmp_path) == ""


def test_a_process_is_known_by_id_start_and_mark(process: subprocess.Popen[bytes]) -> None:
    daemon = services_with(process.pid).daemons[0]
    assert runs(daemon, MARK)
    assert not runs(daemon, "another mark")
    assert not runs(replace(daemon, created=daemon.created - 60), MARK)
    assert not runs(replace(daemon, pid=os.getpid()), MARK)
    process.kill()
    process.wait()
    assert not runs(daemon, MARK)


def test_a_process_that_has_ended_but_was_not_reaped_does_not_run(process: subprocess.Popen[bytes]) -> None:
    daemon = services_with(process.pid).daemons[0]
    process.kill()
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, 10)
    assert not runs(daemon, MARK)


def test_only_a_whole_mark_counts(process: subprocess.Popen[bytes]) -> None:
    assert marked(MARK) == [process.pid]
    assert marked(MARK[:-1]) == []


def test_the_server_of_a_workspace(tmp_path: Path, process: subprocess.Popen[bytes], api: str) -> None:
    assert running_api(tmp_path) == ""
    write_services(tmp_path, services_with(process.pid, api))
    assert running_api(tmp_path) == api
    assert running_api(tmp_path / "elsewhere") == ""
    write_services(tmp_path, services_with(process.pid, api.replace("/api", "/other")))
    assert running_api(tmp_path) == ""
    write_services(tmp_path, services_with(process.pid, api))
    process.kill()
    process.wait()
    assert running_api(tmp_path) == ""


def test_looking_for_a_server_asks_no_proxy(
    tmp_path: Path, process: subprocess.Popen[bytes], api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    write_services(tmp_path, services_with(process.pid, api))
    assert running_api(tmp_path) == api


def test_a_daemon_takes_the_place_of_one_of_its_name() -> None:
    services = services_with(os.getpid())
    again = replace(services.daemons[0], pid=1)
    other = replace(services.daemons[0], name="mlflow")
    assert services.with_daemon(other).with_daemon(again).daemons == (other, again)


def test_looking_is_light() -> None:
    code = "import sys, tasks.services.state; print([n for n in ('prefect', 'pydantic', 'torch', 'httpx') if n in sys.modules])"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_secret_is_recorded(tmp_path: Path) -> None:
    write_services(tmp_path, services_with(os.getpid()))
    content = json.loads((services_folder(tmp_path) / "services.json").read_text())
    assert set(content) == {"version", "mark", "options", "database", "password", "daemons"}
    assert content["password"] is False
    assert set(content["daemons"][0]) == {"name", "role", "pid", "created", "command", "log", "url"}
