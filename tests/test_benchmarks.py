import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.orchestration_load import conclusion
from benchmarks.pages import table
from tests.servers import ROOT


@pytest.mark.slow
def test_two_flows_on_sqlite_complete_and_leave_nothing(tmp_path: Path) -> None:
    options = ["--only", "SQLite", "--sqlite-flows", "2", "--seconds", "0.05", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "orchestration_load.py"), *options]
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    (row,) = printed["loads"]
    assert (row["database"], row["flows"], row["completed"], row["failures"]) == ("SQLite", 2, 2, {})
    assert row["task_runs_recorded"] == row["task_runs_expected"] == 30
    assert printed["worker"] is None
    assert list(tmp_path.iterdir()) == []


def test_the_conclusion_says_which_load_needs_postgresql() -> None:
    def row(database: str, flows: int, completed: int, p95: float) -> dict[str, object]:
        recorded = {"task_runs_recorded": 15 * completed, "task_runs_expected": 15 * flows}
        return {"database": database, "flows": flows, "completed": completed, "start_delay_seconds": {"p95": p95}, **recorded}

    rows = [row("PostgreSQL", 100, 100, 7.0), row("SQLite", 20, 20, 15.0), row("PostgreSQL", 20, 20, 3.5)]
    assert conclusion([*rows, row("SQLite", 100, 71, 67.0)]) == (
        "SQLite carries 20 at once, with a p95 start of 15.0 s; PostgreSQL's is 3.5 s. "
        "100 flows at once need PostgreSQL: SQLite completed 71 of them. "
        "PostgreSQL carries 100 at once. For more than 20 at once, take PostgreSQL."
    )


def test_the_table_of_pages_says_which_are_usable_in_time() -> None:
    rows = [
        {"page": "a form", "cache": "cold", "median": "2.00", "least": "1.90", "most": "2.40"},
        {"page": "a form", "cache": "warm", "median": "1.99", "least": "1.10", "most": "2.10"},
    ]
    lines = table(rows, load=0.25).splitlines()
    assert lines[2:] == [
        "| a form | cold | 2.00 | 1.90 to 2.40 | no |", "| a form | warm | 1.99 | 1.10 to 2.10 | yes |", "",
        "Load average before: 0.2.",
    ]  # fmt: skip
