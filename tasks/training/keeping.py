"""One rank's part in writing checkpoints and in going on from them."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file

from tasks.contracts import FileRecord
from tasks.errors import TrainingError
from tasks.process import emit
from tasks.training import checkpoint, universal
from tasks.training.checkpoint import Checkpoint
from tasks.training.intervals import Pace
from tasks.training.job import TrainingJob
from tasks.training.methods.driver import Driver
from tasks.training.signals import weights

_TAG = "state"
_DRIVER = "driver.safetensors"


class Keeper:
    """Writes the checkpoints of a training and reads the newest whole one, together with the other ranks.

    Args:
        job: what is trained.
        engine: DeepSpeed's.
        driver: of the method; what it keeps travels in the checkpoint.
    """

    def __init__(self, job: TrainingJob, engine: Any, driver: Driver) -> None:
        self.job, self.engine, self.driver = job, engine, driver
        self.root, self.rank, self.world = job.checkpoints, dist.get_rank(), dist.get_world_size()
        self.pace = Pace(job.spec.advanced.checkpoint_steps, self.world)
        self.weights = sum(weights(parameter) for parameter in engine.module.parameters() if parameter.requires_grad)
        self.told = False

    def resume(self) -> Checkpoint | None:
        """Load the newest whole checkpoint, if there is one, and remove what is not whole.

        Raises:
            WorkspaceError: not even two checkpoints fit on the disk.
            TrainingError: the checkpoint cannot be loaded.
        """
        found = self._agree(self._newest() if self.rank == 0 else None)
        if not found:
            return None
        kept = checkpoint.trusted(self.root, found)
        tag = self._converted(kept)
        self.engine._config.load_universal_checkpoint = tag == universal.TAG
        loaded, _ = self.engine.load_checkpoint(str(kept.folder), tag=tag, load_module_strict=not self.job.method.adapter)
        if loaded is None:
            raise TrainingError(f"DeepSpeed finds nothing to load in {kept.folder}. Remove it to go on from the one before.")
        if (kept.folder / _DRIVER).exists():
            self.driver.load(load_file(kept.folder / _DRIVER))
        if kept.pace:
            self.pace.written(kept.step, *kept.pace)
        return kept

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write, prove and seal the checkpoint of `step`; only then may an older one go.

        Raises:
            OSError: the disk is full, or what was written is not what was read back.
        """
        began = time.monotonic()
        if not self._agree(self._has_room(step) if self.rank == 0 else None):
            return
        folder = checkpoint.folder_of(self.root, step)
        if self.rank == 0:
            emit("writing", step=step)
            shutil.rmtree(folder, ignore_errors=True)
        dist.barrier()
        self.engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=self.job.method.adapter)
        self._save_driver(folder)
        dist.barrier()
        parts: list[tuple[FileRecord, ...]] = [()] * self.world
        dist.all_gather_object(parts, checkpoint.prove(folder, self.rank, self.world))
        pace = self._agree((time.monotonic() - began, self.pace.step_seconds()))
        if self.rank == 0:
            files = [record for part in parts for record in part]
            checkpoint.seal(folder, step, state, self.world, pace, files)
            checkpoint.prune(self.root, self.job.spec.advanced.keep_checkpoints)
            emit("checkpoint", step=step, seconds=pace[0], bytes=sum(record.bytes for record in files))
        why = self.pace.written(step, *pace)
        if why and self.rank == 0 and not self.told:
            emit("note", text=why)
        self.told = True

    def _newest(self) -> int:
        """The step of the newest whole checkpoint; those that are not whole are told of and removed."""
        found, refused = checkpoint.newest(self.root)
        for reason in refused:
            emit("log", text=f"checkpoint passed over: {reason}")
            shutil.rmtree(self.root / reason.partition(":")[0], ignore_errors=True)
        checkpoint.demand_room(self.root, self.weights)
        return found.step if found else 0

    def _converted(self, kept: Checkpoint) -> str:
        """The name of the files that fit this number of ranks."""
        if kept.ranks == self.world:
            return _TAG
        states = any((kept.folder / _TAG).glob("*optim_states.pt"))  # divided among the ranks that wrote them
        if not states and self.job.plan.tensor_parallel == 1:
            return _TAG
        if why := self._unconvertible():
            raise TrainingError(
                f"The checkpoint of step {kept.step} is of {kept.ranks} rank(s) and there are {self.world} now, but {why}."
            )
        if self.rank == 0:
            emit("log", text=f"the checkpoint of step {kept.step} is of {kept.ranks} rank(s); converted for {self.world}")
            universal.convert(kept.folder, _TAG)
        dist.barrier()
        return universal.TAG

    def _unconvertible(self) -> str:
        """Why states that are divided cannot be divided anew, and what to do; "" where they can."""
        if self.job.plan.tensor_parallel > 1:
            return (
                "layers that are divided among devices (resources.tensor_parallel) cannot be converted. Use as many devices as "
                "before"
            )
        if self.job.plan.offload == "nvme":
            return "states on a fast disk (offload nvme) cannot be converted. Use as many devices as before, or offload cpu"
        if self.job.spec.advanced.optimizer != "adamw":
            return (
                "moments in 8 bits that ZeRO has divided cannot be converted. Use as many devices as before, or "
                "training.advanced.optimizer: adamw"
            )
        return ""

    def _has_room(self, step: int) -> bool:
        needed = checkpoint.taken_bytes(self.root) or checkpoint.expected_bytes(self.weights)
        fits, warning = checkpoint.make_room(self.root, needed)
        if warning:
            emit("log", text=f"checkpoint of step {step}: {warning}")
        return fits

    def _save_driver(self, folder: Path) -> None:
        if self.rank == 0 and (kept := self.driver.state()):
            save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in kept.items()}, folder / _DRIVER)

    def _agree(self, value: Any) -> Any:
        """What rank 0 says."""
        told = [value]
        dist.broadcast_object_list(told)
        return told[0]
