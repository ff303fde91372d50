"""Real datasets, and a machine that dies in the middle."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.flows.conftest import Ended, command, environment, small, tuneflow, write_request

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "file", "shape", "kept", "dropped"),
    [
        ("gsm8k", "gsm8k/train.jsonl", "question_answer", 600, {}),
        ("alpaca", "chat_formats/alpaca_en_demo.json", "instruction", 985, {"exact_duplicate": 14}),
    ],
)
def test_a_real_dataset_goes_through(
    workspace: Path, tmp_path: Path, real_data: Path, name: str, file: str, shape: str, kept: int, dropped: dict[str, int]
) -> None:
    data = {"source": str(real_data / file), "maximum_rows": 1000 if name == "alpaca" else 600}
    request = write_request(tmp_path, **small(name, "", data=data))
    ended = tuneflow("run", request, "--workspace", str(workspace), "--json", folder=tmp_path)
    assert ended.code == 0, ended.err
    raw, clean = ended.result["data"]["raw"], ended.result["data"]["clean"]
    assert raw["shape"] == shape
    assert raw["mapping_reason"] in (workspace / "runs" / name / "report.html").read_text().replace("&#39;", "'")
    assert clean["ledger"]["kept"] == kept
    assert {count["reason"]: count["rows"] for count in clean["ledger"]["dropped"]} == dropped


def alive(tag: str) -> list[str]:
    """Command lines of every process that was started with `tag` in its environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and tag.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended while we looked
    return [line for line in found if line]


def test_a_killed_process_tree_leaves_nothing_behind_and_the_same_command_goes_on(
    quickstart: Ended, workspace: Path, tmp_path: Path
) -> None:
    content = small("killed", "quickstart:", data={"source": "quickstart:"})
    content["training"] = {"max_steps": 60, "max_length": 256, "learning_rate": 0.003, "advanced": {"checkpoint_steps": 5}}
    arguments = ["run", write_request(tmp_path, **content), "--workspace", str(workspace), "--json"]
    tag = f"tag-{os.getpid()}-{time.time_ns()}"
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env={**environment(), "TEST_TAG": tag}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    sealed = "checkpoints/*/step-*/complete.json"
    wait_for(lambda: process.poll() is not None or any(workspace.glob(sealed)), seconds=180)
    assert process.poll() is None
    assert any("tasks.training.worker" in line for line in alive(tag))
    for folder in Path("/proc").iterdir():  # the whole tree at once, as when a machine dies
        try:
            if folder.name.isdigit() and tag.encode() in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            continue
    process.wait()
    wait_for(lambda: not alive(tag), seconds=10)
    ended = tuneflow(*arguments, folder=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.result["model"]["resumed_from"] >= 5
    assert ended.result["model"]["steps"] == 60
    ran = {step["step"] for step in ended.result["steps"] if not step["cached"]}
    assert ran == {"train", "evaluate", "export-safetensors"}


def test_an_interrupt_leaves_a_checkpoint_ends_with_1_and_leaves_nothing_running(
    quickstart: Ended, workspace: Path, tmp_path: Path
) -> None:
    content = small("interrupted", "quickstart:", data={"source": "quickstart:"})
    content["training"] = {"max_steps": 3000, "max_length": 256, "learning_rate": 0.003}
    tag = f"tag-{os.getpid()}-{time.time_ns()}"
    before = set(workspace.glob("checkpoints/*"))
    process = subprocess.Popen(
        command("run", write_request(tmp_path, **content), "--workspace", str(workspace)), cwd=tmp_path,
        env={**environment(), "TEST_TAG": tag}, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = workspace / "runs" / "interrupted" / "logs" / "train.log"
    wait_for(lambda: process.poll() is not None or (log.exists() and '"metrics"' in log.read_text()), seconds=180)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C on a terminal does
    _, told = process.communicate(timeout=90)
    assert process.returncode == 1
    assert told.splitlines()[-1] == "Interrupted. The same command goes on where it stopped."
    wait_for(lambda: not alive(tag), seconds=10)
    (training,) = set(workspace.glob("checkpoints/*")) - before
    assert any(training.glob("step-*/complete.json"))


def wait_for(condition: object, seconds: float) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)
