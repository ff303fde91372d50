"""Seconds from SIGKILL of a rank, of a host, of everything to the next training step. Prints a table.

    .venv/bin/python benchmarks/recovery.py [--repeats 3]

A tiny model on this machine's CPU: what is measured is noticing, waiting, starting and reading the checkpoint, and of that the
imports are the most. Hosts are network namespaces, which need root; without it their row is left out.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tasks.process import Event, carrying  # noqa: E402  (the project's root is not on the path before)
from tasks.training.attempts import train  # noqa: E402
from tasks.training.job import Cluster, TrainingJob  # noqa: E402
from tests.conftest import progression, write_sequences  # noqa: E402
from tests.netns import NAMESPACE, Net  # noqa: E402
from tests.tasks.training.conftest import build_job, cpu_plan, signal_processes  # noqa: E402

STEPS = 1000  # every tenth is reported, so that figures are right to about ten steps
TRAIN = """
import sys
from pathlib import Path
from tasks.training.attempts import train
from tasks.training.job import TrainingJob
job = TrainingJob.model_validate_json(Path(sys.argv[1]).read_text())
train(job, on_event=lambda event: print(event["kind"], event.get("step", 0), flush=True))
"""


class Stopwatch:
    """Does harm at a step after the first checkpoint, and measures until the next step; then the training is stopped."""

    def __init__(self, harm: Callable[[], Any]) -> None:
        self._harm = harm
        self._checkpoint = self._harmed = self._again = False
        self._began = self.seconds = 0.0

    def __call__(self, event: Event) -> None:
        """Take account of an event of the ranks."""
        kind = event["kind"]
        self._checkpoint = self._checkpoint or kind == "checkpoint"
        if kind == "started" and self._harmed:
            self._again = True
        if kind == "metrics" and self._checkpoint and not self._harmed:
            self._harmed, self._began = True, time.monotonic()
            threading.Thread(target=self._harm).start()
        elif kind == "metrics" and self._again and not self.seconds:
            self.seconds = time.monotonic() - self._began

    def over(self) -> str:
        """Why the training is to stop."""
        return "measured" if self.seconds else ""


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; the median is shown")
    options = parser.parse_args()
    print("| SIGKILL of | seconds to the next step, median | all |\n|---|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        maker = _Maker(Path(folder))
        for name, ranks, measure in (
            ("one rank of one", 1, of_rank), ("one rank of two", 2, of_rank), ("everything, started again at once", 1, of_all),
        ):  # fmt: skip
            tell(name, [measure(maker(ranks)) for _ in range(options.repeats)])
        if os.geteuid() == 0:
            tell("one host of two, which stays away", [of_host(maker) for _ in range(options.repeats)])


def tell(name: str, seconds: list[float]) -> None:
    """Print a row of the table."""
    print(f"| {name} | {statistics.median(seconds):.1f} | {', '.join(f'{each:.1f}' for each in seconds)} |", flush=True)


def of_rank(job: TrainingJob) -> float:
    """The attempt ends, and another one follows after the usual wait."""
    return _measured(job, lambda: os.kill(signal_processes(job, 0)[-1], signal.SIGKILL))


def of_all(job: TrainingJob) -> float:
    """The process that trains is killed with all that it started, and started again."""
    path = job.checkpoints.parent / "asked.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(job.model_dump_json())
    _until_step(path, after="checkpoint")
    began = time.monotonic()
    for number in (1, 2):  # the shim first, or it would say goodbye
        for pid in carrying(f"TUNEFLOW_BENCHMARK={path}"):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05 * number)
    _until_step(path, after="started")
    seconds = time.monotonic() - began
    for pid in carrying(f"TUNEFLOW_BENCHMARK={path}"):
        os.kill(pid, signal.SIGKILL)
    return seconds


def of_host(maker: "_Maker") -> float:
    """The other host goes on alone."""
    net = Net()
    try:
        net.up()
        cluster = Cluster(hosts=net.hosts, least=1, address=net.address, command=NAMESPACE)
        return _measured(maker(2).model_copy(update={"cluster": cluster}), lambda: net.lose(net.hosts[0]))
    finally:
        net.down()


def _measured(job: TrainingJob, harm: Callable[[], Any]) -> float:
    from tasks.errors import StoppedError

    watch = Stopwatch(harm)
    try:
        train(job, on_event=watch, should_stop=watch.over)
    except StoppedError:
        return watch.seconds
    raise RuntimeError("The training ended before it was measured; raise STEPS.")


def _until_step(path: Path, after: str) -> None:
    """Start the training in `path` and wait for a step that follows an event of the kind `after`; it goes on."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TUNEFLOW_BENCHMARK": str(path)}
    process = subprocess.Popen([sys.executable, "-c", TRAIN, str(path)], env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = False
    for line in process.stdout:
        seen = seen or line.startswith(after)
        if seen and line.startswith("metrics"):
            return
    raise RuntimeError("The training ended before it was measured.")


class _Maker:
    """Jobs of one tiny model and its data, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from tasks.models import describe

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=512, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=256, tie_word_embeddings=True,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder / "base")
        self._base, self._folder, self._made = describe(str(folder / "base"), folder / "base"), folder, 0
        random = Random(0)  # noqa: S311
        for name, count in (("train", 160), ("validation", 24)):
            write_sequences(folder / f"{name}.parquet", [progression(random) for _ in range(count)])

    def __call__(self, ranks: int) -> TrainingJob:
        """One that learns an adapter on so many ranks."""
        from tasks.training.methods.lora import Lora
        from tasks.training.spec import AdvancedTraining

        self._made += 1
        return build_job(
            self._base, self._folder, self._folder / f"job{self._made}", Lora(rank=4), cpu_plan(devices=ranks, micro_batch=8),
            max_steps=STEPS, advanced=AdvancedTraining(checkpoint_steps=10, validate_steps=STEPS),
        )  # fmt: skip


if __name__ == "__main__":
    main()
