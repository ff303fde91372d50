"""A rank that trains nothing: `toy_rank.py JOB.json` counts steps together with the others, and keeps the count in a file.

It starts in a second or two, since it imports no model. It ends when there is a file `enough` beside the checkpoints.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from tasks.process import emit
from tasks.shim import die_with_parent
from tasks.storage import write_text
from tasks.training.job import TrainingJob


def main(path: str) -> None:
    """Count until it is enough."""
    die_with_parent()
    job = TrainingJob.model_validate_json(Path(path).read_text())
    kept, enough = job.checkpoints / "step", job.checkpoints / "enough"
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    step = int(kept.read_text()) if kept.exists() else 0
    if rank == 0:
        emit("started", resumed_from=step, total=0, world=world, host=os.environ["TUNEFLOW_HOST"])
    while True:
        time.sleep(0.05)
        seen = torch.tensor([1.0, float(enough.exists())])
        dist.all_reduce(seen)
        assert seen[0] == world
        step += 1
        if rank == 0:
            write_text(kept, str(step))
            emit("metrics", step=step, world=world)
        if seen[1]:
            break
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
