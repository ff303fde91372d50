"""A checkpoint for another number of ranks: DeepSpeed's universal form, made from what the ranks wrote."""

import os
import shutil
import subprocess
from pathlib import Path

from tasks.errors import TrainingError
from tasks.process import python_module

_LAST_LINES = 10
TAG = "universal"


def convert(folder: Path, tag: str) -> None:
    """Write `folder/universal` from `folder/<tag>`: each weight and moment whole, in a file of its own.

    A process of its own does it, since DeepSpeed's converter forks, and this one has threads and perhaps a GPU.

    Raises:
        TrainingError: it failed; the last lines say why.
    """
    fresh = folder.with_name(folder.name + ".universal")
    shutil.rmtree(fresh, ignore_errors=True)
    command = python_module(
        "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(folder / tag), "--output_folder", str(fresh),
        "--num_extract_workers", "1", "--num_merge_workers", "1", "--inject_missing_state",
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "MASTER_"))}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    if done.returncode:
        tail = "\n".join(f"  | {line}" for line in (done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
        shutil.rmtree(fresh, ignore_errors=True)
        raise TrainingError(
            f"The checkpoint {folder} was written by another number of ranks and cannot be converted. Use as many devices as "
            f"before, or remove {folder.parent} to train from the start. The converter's last lines:\n{tail}"
        )
    shutil.rmtree(folder / TAG, ignore_errors=True)
    fresh.rename(folder / TAG)
