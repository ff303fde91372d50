"""The training loop of one rank.

What makes a resumed run end with the same weights: the batch, the learning rate and the random seed of a step are pure
functions of (seed, step), and optimizer state and weights come back bit by bit from the checkpoint.
"""

import json
import math
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tasks.errors import TrainingError
from tasks.packing import Packs
from tasks.process import emit
from tasks.training import checkpoint, data, engine, kernels, schedule
from tasks.training.feeding import Feed, padded
from tasks.training.heads import TokenLoss, language_model
from tasks.training.isolation import demand_isolation
from tasks.training.job import TrainingJob
from tasks.training.keeping import Keeper
from tasks.training.noise import Noise
from tasks.training.reading import Sequences
from tasks.training.signals import Signals, gradient_norm
from tasks.training.stopping import exhausted

Point = dict[str, float]
BEST = "best.json"  # beside the best weights: their step and validation loss
_SILENCE_SECONDS = 20.0  # no longer than that without a word, so that a training that stalls can be told from a slow one


@dataclass
class Progress:
    """What changes from step to step and travels in a checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = math.inf
    history: list[Point] = field(default_factory=list)


class Loop:
    """One rank's training of one job.

    Args:
        job: what to train.
        deepspeed_engine: the engine around the model that learns.
        train: sequences to learn from.
        validation: sequences to stop at the best step by; may be empty.
    """

    def __init__(self, job: TrainingJob, deepspeed_engine: Any, train: Sequences, validation: Sequences) -> None:
        self.job, self.engine, self.train, self.validation = job, deepspeed_engine, train, validation
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.together = job.plan.tensor_parallel  # ranks that hold one model, and have the same rows
        self.group, self.groups = self.rank // self.together, self.world // self.together
        self.feed = self._feed()
        self.total = schedule.total_steps(job.spec, len(self.feed))
        self.peak, _ = schedule.learning_rate(job.spec, job.method.adapter, job.rate_factor)
        advanced = job.spec.advanced
        self.validate_every = schedule.interval(advanced.validate_steps, self.total, schedule.VALIDATIONS)
        self.report_every = max(1, self.total // 100)
        self.driver = job.method.driver(deepspeed_engine, self.total, job.plan)
        self.keeper = Keeper(job, deepspeed_engine, self.driver)
        self.progress = Progress()
        self.asked_to_stop = False
        self.norm: float | None = None
        self.noise: Noise | None = None
        self.started = self.spoke = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_signal)

    def run(self) -> Progress:
        """Train to the last step, or until validation gains no more, from the newest whole checkpoint where there is one."""
        self._get_ready()
        ended = self._exhausted()
        while self.progress.step < self.total and not ended:
            loss = self._train_step(self.progress.step)
            self.progress.step += 1
            step, last = self.progress.step, self.progress.step == self.total
            if not math.isfinite(loss):
                self._discard_checkpoint(step - 1)
                raise self._not_finite(f"The training loss is {loss}")
            if self._reports(step):
                self._report(loss)
            if step % self.validate_every == 0 or last:
                self._validate()
                ended = self._exhausted()
            if self._must_stop():
                self._save_checkpoint()
                if self.rank == 0:
                    emit("stopped", step=step)
                raise SystemExit(128 + signal.SIGTERM)
            if self.keeper.pace.due(step) and not last:
                self._save_checkpoint()
        if len(self.validation) and not self.progress.best_step:
            self._validate()
            if not self.progress.best_step:
                raise self._not_finite("No validation loss was finite")
        self.progress.seconds += time.monotonic() - self.started
        return self.progress

    def resume(self) -> int:
        """Go on from the newest whole checkpoint; its step, 0 where there is none."""
        if kept := self.keeper.resume():
            self.progress = Progress(**kept.state)
        self._recall_best()
        return self.progress.step

    def _feed(self) -> Feed:
        """What is learned; with packing, from a model that keeps documents apart."""
        job, spec, module = self.job, self.job.spec, self.engine.module
        if not spec.packing:
            return Feed(self.train, spec.batch_size, job.seed, job.pad_token_id)
        flat = "flash" in str(module.config._attn_implementation)
        self.engine.eval()
        with torch.no_grad():
            demand_isolation(
                self.engine, job.base.architecture, job.base.vocabulary, job.base.max_positions, flat, self.engine.device
            )
        self.engine.train()
        longest = int(self.train.lengths.max(initial=0))
        length = schedule.pack_length(spec, job.base.max_positions, longest)
        return Feed(self.train, spec.batch_size, job.seed, job.pad_token_id, length, flat)

    def _recall_best(self) -> None:
        """Go by the weights kept as the best: they may be of a later step than the checkpoint, or be gone."""
        if not len(self.validation):
            return
        try:
            best = json.loads((self.job.checkpoints / "best" / BEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            best = {"step": 0, "loss": math.inf}  # killed while the folder was swapped: the next validation writes it
        self.progress.best_step, self.progress.best_loss = int(best["step"]), float(best["loss"])

    def _get_ready(self) -> None:
        """What asks the model that learns, or measures the device: after the first word, since it takes a while."""
        job, model = self.job, language_model(self.engine.module)
        self.loss = TokenLoss(self.engine, job.plan, job.base.vocabulary)
        self.signals = Signals(self.engine, job.plan, job.base.hidden_size, from_hidden=self.loss.head is not None)
        alpha = job.spec.advanced.neftune_alpha
        self.noise = Noise(model.get_input_embeddings(), alpha, job.seed, self.train.lengths) if alpha else None
        if self.rank == 0:
            for reason in (self.loss.reason, *kernels.told(model, job.plan)):
                emit("note", text=reason)
            emit("note", text=f"the share of a device's speed (mfu) is of {self.signals.peak / 1e9:,.0f} GFLOP/s, as measured")

    def _train_step(self, step: int) -> float:
        """One optimizer step; the mean loss over the supervised tokens of the whole batch, in nats."""
        torch.manual_seed(self.job.seed * 1_000_003 + step)
        plan = self.job.plan
        for group in self.engine.optimizer.param_groups:
            group["lr"] = schedule.rate_at(step, self.total, self.peak, self.job.spec.advanced)
        rows = self.feed.rows(step)
        learned = max(1, self.train.learned(rows.documents))
        mine = data.share(np.arange(len(rows)), rows.lengths, self.group, self.groups)
        total = torch.zeros(1, dtype=torch.float64, device=self.engine.device)
        for number, part in enumerate(data.micro_batches(mine, plan.accumulation, plan.micro_batch), 1):
            loss = self._micro_batch(step, rows.rows(part if len(part) else [0])) * (1.0 if len(part) else 0.0)
            # The engine divides by the accumulation and averages over groups; the sum over tokens wants neither.
            scaled, extra = loss * (plan.accumulation * self.groups / learned), self.driver.extra_loss(self.engine.module)
            self.engine.backward(scaled if extra is None else scaled + extra)
            total += loss.detach()
            if number == plan.accumulation:
                self.norm = gradient_norm(self.engine) if self._reports(step + 1) else None
                self.driver.before_step(step)
            self.engine.step()
            self._speak()
        self.driver.after_step(step)
        tokens = int(rows.lengths.sum())
        self.progress.tokens += tokens
        self.signals.step(tokens, learned)
        return float(self._sum(total.cpu())) / self.together / learned

    def _micro_batch(self, step: int, rows: Packs) -> torch.Tensor:
        """The summed loss of `rows`. A rank without work computes some all the same: the others wait for it."""
        if self.noise:
            self.noise.aim(step, rows)
        inputs, labels = self.feed.collate(rows)
        return self.signals.forward(lambda: self.loss(inputs, labels))

    def _validate(self) -> None:
        """Note the validation loss, and keep the weights where it is the lowest so far."""
        if not len(self.validation):
            self.progress.best_step = self.progress.step
            return
        loss = self._validation_loss()
        if not math.isfinite(loss):
            self._check_weights()
            if self.rank == 0:
                emit("log", text=f"the validation loss is {loss} at step {self.progress.step}: not taken as the best")
            return
        self.progress.history.append({"step": self.progress.step, "validation_loss": loss})
        if self.rank == 0:
            emit("metrics", step=self.progress.step, validation_loss=loss)
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            self.save_model(self.job.checkpoints / "best")

    def _exhausted(self) -> bool:
        """Whether validation gains no more, on every rank alike; told where it is so."""
        rule = self.job.spec.early_stopping
        losses = [point["validation_loss"] for point in self.progress.history if "validation_loss" in point]
        if not rule.patience or not self._any(exhausted(losses, rule)):
            return False
        if self.rank == 0:
            text = f"no gain in {rule.patience} validations: training ends at step {self.progress.step} of {self.total}"
            emit("note", text=text)
        return True

    def _validation_loss(self) -> float:
        size = self.job.plan.micro_batch
        lengths = self.validation.lengths
        mine = data.share(torch.arange(len(lengths)).numpy(), lengths, self.group, self.groups)
        rounds = math.ceil(math.ceil(len(lengths) / self.groups) / size)
        total = torch.zeros(1, dtype=torch.float64)
        self.engine.eval()
        with torch.no_grad():
            for number in range(rounds):
                part = mine[number * size : (number + 1) * size]
                loss = self.loss(*padded(self.validation, part if len(part) else [0], self.job.pad_token_id))
                total += loss.double().cpu() * (1.0 if len(part) else 0.0)
                self._speak()
        self.engine.train()
        return float(self._sum(total)) / self.together / max(1, self.validation.learned(range(len(lengths))))

    def save_model(self, folder: Path) -> None:
        """Write the model that learns, whole, and swap it in; never one with weights that are not finite."""
        self._check_weights()
        with engine.whole_parameters(self.engine, self.job.plan):
            if self.rank == 0:
                fresh = folder.with_name(folder.name + ".new")
                shutil.rmtree(fresh, ignore_errors=True)
                self.job.method.save(self.engine.module, fresh)
                best = {"step": self.progress.best_step, "loss": self.progress.best_loss}
                (fresh / BEST).write_text(json.dumps(best), encoding="utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                fresh.rename(folder)
        dist.barrier()

    def _discard_checkpoint(self, step: int) -> None:
        """Remove the checkpoint of `step`, if there is one: its weights are finite, but what they compute is not."""
        folder = checkpoint.folder_of(self.job.checkpoints, step)
        if self.rank == 0 and folder.exists():
            shutil.rmtree(folder)
            emit("log", text=f"the checkpoint of step {step} is removed: the loss of its weights is not finite")

    def _check_weights(self) -> None:
        """Raise TrainingError on every rank where a weight that learns is not finite on any."""
        learned = (parameter for parameter in self.engine.module.parameters() if parameter.requires_grad)
        parts = [getattr(parameter, "ds_tensor", parameter).detach() for parameter in learned]  # under ZeRO 3: this rank's
        # The largest magnitude needs no copy of the weights; one that is not a number, or infinite, makes it so too.
        largest = torch.stack([torch.linalg.vector_norm(part, math.inf).float() for part in parts if part.numel()])
        if self._sum((~torch.isfinite(largest)).sum().double().cpu().reshape(1)) > 0:
            raise self._not_finite("A weight is not finite")

    def _not_finite(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.progress.step} of {self.total}, with a learning rate of up to {self.peak:g}",
            "loss_not_finite",
        )

    def _save_checkpoint(self) -> None:
        """Write what a resumed run goes on from; never from weights that are not finite."""
        self._check_weights()
        seconds = self.progress.seconds + time.monotonic() - self.started
        self.keeper.save(self.progress.step, {**vars(self.progress), "seconds": seconds})

    def _reports(self, step: int) -> bool:
        return step % self.report_every == 0 or step in (1, self.total)

    def _report(self, loss: float) -> None:
        step = self.progress.step
        rate = float(self.engine.optimizer.param_groups[0]["lr"])
        seconds = self.progress.seconds + time.monotonic() - self.started
        norm = self.norm if self.norm is not None else self.engine.get_global_grad_norm()
        facts = {**({} if norm is None else {"gradient_norm": float(norm)}), **self.driver.facts()}
        point = {"step": step, "tokens": self.progress.tokens, "loss": loss, "learning_rate": rate, "seconds": seconds, **facts}
        self.progress.history.append(point)
        seen = self.signals.report()
        if self.rank == 0:
            self._speak(0.0)
            emit("metrics", step=step, loss=loss, learning_rate=rate, **facts, **seen)

    def _speak(self, silence: float = _SILENCE_SECONDS) -> None:
        """Say how far it is, unless that was said less than `silence` seconds ago."""
        if self.rank == 0 and time.monotonic() - self.spoke >= silence:
            self.spoke = time.monotonic()
            left = self.signals.seconds_left(self.total - self.progress.step)
            emit("progress", done=self.progress.step, total=self.total, seconds_left=left)

    def _must_stop(self) -> bool:
        """True on every rank as soon as one was asked to stop."""
        return self._any(self.asked_to_stop)

    def _any(self, here: bool) -> bool:
        """Whether it is so on any rank."""
        return bool(self._sum(torch.tensor([float(here)], dtype=torch.float64)) > 0)

    def _sum(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.world == 1:
            return tensor
        tensor = tensor.to(self.engine.device)
        dist.all_reduce(tensor)
        return tensor.cpu()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked_to_stop = True
