"""The evaluating child process: `python -m tasks.evaluation.worker JOB.json`.

Weights are loaded once. An adapter's base is the same model with the adapter switched off; fully trained weights and
their base are loaded one after the other, so that memory holds one of them. Both models get the same items in the same
batches.
"""

import gc
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import ModelRole, Speed
from tasks.errors import EvaluationError, TuneflowError
from tasks.evaluation.items import ITEMS_FILE, SPEED_FILE, Item, Result, write_results
from tasks.evaluation.job import EvaluationJob
from tasks.evaluation.metrics import Subject, plain_generation, stop_ids
from tasks.evaluation.speed import REQUESTS, measure
from tasks.models import load_model, load_tokenizer, load_trained
from tasks.process import emit
from tasks.storage import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Examine = Callable[[ModelRole, Any], None]
# Initialisations that leave the base weights alone; others (PiSSA, OLoRA, ...) subtract the adapter's first value from
# them.
_KEEPS_BASE = (True, False, "gaussian", "eva", "orthogonal")


def main(arguments: list[str]) -> int:
    """Run the job in the file named by the only argument; the exit status."""
    try:
        run(EvaluationJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8")))
    except TuneflowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def run(job: EvaluationJob) -> None:
    """Evaluate base and tuned model; write items.parquet and speed.json."""
    import torch

    _quieten()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    chosen = [benchmark.choose(job.test_file, job.seed) for benchmark in job.benchmarks]
    results: list[Result] = []
    speeds: list[Speed] = []
    if any(chosen):
        _Examination(job, chosen, results, speeds).both()
    job.out.mkdir(parents=True, exist_ok=True)
    write_results(job.out / ITEMS_FILE, results)
    write_text(job.out / SPEED_FILE, json.dumps([speed.model_dump() for speed in speeds], indent=1))


class _Examination:
    """One pass over both models, which fills `results` and `speeds`."""

    def __init__(self, job: EvaluationJob, chosen: list[list[Item]], results: list[Result], speeds: list[Speed]) -> None:
        self.job, self.chosen, self.results, self.speeds = job, chosen, results, speeds
        self.tokenizer = load_tokenizer(job.tokenizer_folder, job.trained.base.trust_remote_code)
        self.stops: tuple[int, ...] = ()
        self.done = 0
        pairs = zip(job.benchmarks, chosen, strict=True)
        self.total = 2 * sum(len(items) + len(benchmark.asked(items)) for benchmark, items in pairs)

    def both(self) -> None:
        with_both_models(self.job, self.examine)

    def examine(self, role: ModelRole, model: "PreTrainedModel") -> None:
        # The base comes first: what ends an answer is asked of it alone, so that both models stop at the same tokens.
        self.stops = self.stops or stop_ids(model, self.tokenizer)
        plain_generation(model)
        job = self.job
        subject = Subject(model, self.tokenizer, self.stops, job.trained.base.max_positions, job.batch_size, job.device)
        for benchmark, items in zip(job.benchmarks, self.chosen, strict=True):
            fresh = benchmark.score(subject, role, items, self.progress) if items else []
            _refuse_broken(fresh)
            self.results += fresh
        self.time(subject, role)

    def time(self, subject: Subject, role: ModelRole) -> None:
        """Speed is measured on the first benchmark that has answers generated; without generation there is none."""
        for benchmark, items in zip(self.job.benchmarks, self.chosen, strict=True):
            prompts = [item.prompt for item in benchmark.asked(items)[:REQUESTS]]
            if prompts:
                self.speeds.append(measure(subject, role, prompts, benchmark.max_new_tokens))
                return

    def progress(self, more: int) -> None:
        self.done += more
        emit("progress", step="evaluate", done=self.done, total=self.total)


def with_both_models(job: EvaluationJob, examine: Examine) -> None:
    """Call `examine` with the base and then with the tuned model, in evaluation mode on the job's device."""
    import torch

    trained, dtype = job.trained, torch.float32 if job.precision == "fp32" else torch.bfloat16
    apart = not trained.adapter or trained.method == "qlora" or not keeps_base(job.trained_folder)
    if apart:
        examine("base", load_model(trained.base.location, dtype, trained.base.trust_remote_code).to(job.device).eval())
        _free(job.device)
    model = load_trained(trained, job.trained_folder, dtype).to(job.device)
    if not apart:
        with model.disable_adapter():
            examine("base", model)
    examine("tuned", model)


def keeps_base(adapter: Path) -> bool:
    """Whether loading the adapter leaves the base weights as they are, so that switching it off gives the base."""
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"init_lora_weights": ""}  # not one of PEFT's
    return config.get("init_lora_weights", True) in _KEEPS_BASE


def _quieten() -> None:
    """Keep bars and known, harmless warnings out of the run's log."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _refuse_broken(results: list[Result]) -> None:
    """A loss that is no number would make every mean of it one; say which model and row instead."""
    for result in results:
        if result.loss is not None and not math.isfinite(result.loss):
            raise EvaluationError(
                f"The {result.role} model's loss on row {result.row} of {result.benchmark} is {result.loss}, expected "
                f"a finite number. Its weights or its precision do not hold: evaluate in fp32, or train with a lower "
                f"learning rate."
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
