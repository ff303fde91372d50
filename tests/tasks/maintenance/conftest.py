"""A workspace of folders whose sizes and ages are known, and a process that holds locks."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tasks.contracts import StepRecord
from tasks.maintenance.retention import plan
from tasks.maintenance.spec import DAY, Item, MaintenanceSpec, RetentionPlan
from tasks.storage import MANIFEST, Store

KEEP_ALL = {"runs_days": 0, "checkpoints_days": 0, "cache_days": 0, "unfinished_hours": 0}
MANIFEST_TEXT = '{"files": []}'  # 13 bytes


class Box:
    """A workspace. `now` lies 100 days ahead, since nothing can make a folder's own change look older than it is."""

    def __init__(self, root: Path, remote: bool = False) -> None:
        self.root, self.now = root, float(int(time.time())) + 100 * DAY
        address = f"memory://{uuid4().hex}/prefix" if remote else str(root)
        self.store = Store(address, root / "cache" / ".scratch")

    def ago(self, days: float) -> float:
        return self.now - days * DAY

    def file(self, path: str, size: int, days: float, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text or "x" * size)
        os.utime(file, (self.ago(days), self.ago(days)))
        return file

    def entry(self, name: str, size: int, days: float, whole: bool = True) -> str:
        """A cache entry: `clean-a` is cache/clean/aaa…; a data file of `size` bytes and a manifest of 13."""
        step, letter = name.rsplit("-", 1)
        key = f"cache/{step}/{letter * 24}"
        files = {"rows": "x" * size} | ({MANIFEST: MANIFEST_TEXT} if whole else {})
        for file, text in files.items():
            if self.store.is_local:
                self.file(f"{key}/{file}", 0, days, text)
            else:
                self._remote(f"{self.store.uri(key)}/{file}", text, days)
        return key

    def _remote(self, address: str, text: str, days: float) -> None:
        from datetime import UTC, datetime

        filesystem = self.store.filesystem
        filesystem.pipe_file(address, text.encode())
        filesystem.store[filesystem._strip_protocol(address)].modified = datetime.fromtimestamp(self.ago(days), UTC)

    def run(self, name: str, days: float, used: dict[str, float] | None = None, result: Any = None, lock: bool = True) -> Path:
        """A run whose records name entries -> days since their use, and whose result names whatever it is given."""
        for entry, use in (used or {}).items():
            _, step, key = entry.split("/")
            record = StepRecord(step=step, key=key + "0" * 40, cached=True, reason="", seconds=1, at=self.ago(use))
            self.file(f"runs/{name}/steps/{step}.json", 0, use, record.model_dump_json())
        if result is not None:
            self.file(f"runs/{name}/result.json", 0, days, json.dumps(result))
        if lock:
            self.file(f"runs/{name}/.lock", 0, days)
        self.file(f"runs/{name}/logs/train.log", 100, days)
        return self.root / "runs" / name

    def value(self, run: str, kind: str, text: str, days: float) -> None:
        """A value of a run for later stages, in the store."""
        key = f"runs/{run}/values/{kind}.json"
        if self.store.is_local:
            self.file(key, 0, days, text)
        else:
            self._remote(self.store.uri(key), text, days)

    def plan(self, now: float = 0.0, open_flow_runs: Iterable[str] = (), **limits: Any) -> RetentionPlan:
        spec = MaintenanceSpec.model_validate({**KEEP_ALL, **limits})
        return plan(self.root, self.store, spec, now or self.now, open_flow_runs)

    def going(self, **limits: Any) -> list[str]:
        return [item.key for item in self.plan(**limits).items]

    def there(self) -> set[str]:
        """Every file of the workspace but lock files, and of a remote store."""
        found = {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()}
        if not self.store.is_local:
            found |= {name.partition("/prefix/")[2] for name in self.store.filesystem.find(self.store.root)}
        return {name for name in found if not name.endswith(".lock")}


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "workspace")


@pytest.fixture(params=["local", "memory"])
def either_box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    """The same with a local and a remote store."""
    return Box(tmp_path / "workspace", remote=request.param == "memory")


Holder = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def held_elsewhere() -> Holder:
    """Hold a lock from another process."""

    @contextmanager
    def hold(path: Path) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        code = (
            f"import sys; from filelock import FileLock; lock = FileLock({str(path)!r}); lock.acquire(); "
            "print('held', flush=True); sys.stdin.read()"
        )
        holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.stdin.close()
            holder.wait()
            holder.stdout.close()

    return hold


def brief(items: tuple[Item, ...]) -> dict[str, tuple[str, int, str]]:
    return {item.key: (item.kind, item.bytes, item.reason) for item in items}
