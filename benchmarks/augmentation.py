"""Whether synthetic rows help: the quickstart with few rows, trained with and without them. Prints a Markdown table.

    .venv/bin/python benchmarks/augmentation.py [--rows 120 300] [--seeds 0 1 2] [--steps 60] [--workspace FOLDER]

Both trainings make the same number of optimizer steps from the same base model, and both are examined on the same held-out
rows, as no synthetic row is ever held out. The loss is nats per token of the right answers; the difference is that of each
held-out row (with synthetic rows minus without: below 0 is better), its interval a bootstrap of whole groups, 95 %. The base
model is built first: some minutes on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
REQUEST = ROOT / "examples" / "quickstart.yaml"


def main() -> None:
    """Train each pair and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[120, 300], help="rows that are read")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one pair of trainings each")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each training")
    parser.add_argument("--workspace", type=Path, help="keeps the base model for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = options.workspace or Path(folder)
        print("| rows read | seed | trained on | synthetic | loss without | loss with | difference |")
        print("|---:|---:|---:|---:|---:|---:|---:|")
        for rows in options.rows:
            for seed in options.seeds:
                plain, more = (trained(workspace, rows, seed, options.steps, minimum) for minimum in (0, 10 * rows))
                print(line(rows, seed, plain, more), flush=True)


def trained(workspace: Path, rows: int, seed: int, steps: int, minimum_rows: int) -> dict[str, Any]:
    """The result of one run."""
    settings = {
        "name": f"aug-{rows}-{seed}-{int(minimum_rows > 0)}", "seed": seed, "data.maximum_rows": rows,
        "data.splitting.test": 0.5, "data.augmentation.minimum_rows": minimum_rows, "training.max_steps": steps,
        "evaluation.benchmarks.0.generated_items": 0,
    }  # fmt: skip
    given = [f"--set={path}={value}" for path, value in settings.items()]
    command = [sys.executable, "-m", "flows.cli", "run", str(REQUEST), "--workspace", str(workspace), "--json", *given]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode} and no result.")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def losses(result: Mapping[str, Any]) -> dict[tuple[str, int], tuple[float, str]]:
    """(benchmark, row) -> (loss of the tuned model, group) of every held-out row."""
    from tasks.evaluation.items import read_results

    found = read_results(Path(result["evaluation"]["items_uri"]))
    tuned = [item for item in found if item.role == "tuned"]
    return {(item.benchmark, item.row): (item.loss, item.group) for item in tuned if item.loss is not None}


def line(rows: int, seed: int, plain: Mapping[str, Any], more: Mapping[str, Any]) -> str:
    """The table's row for a pair of results."""
    splits = more["data"]["splits"]
    one, other = losses(plain), losses(more)
    if set(one) != set(other):
        raise SystemExit("The two models were not examined on the same rows, so that they cannot be compared.")
    keys = sorted(one)
    difference = compared([one[key][0] for key in keys], [other[key][0] for key in keys], [one[key][1] for key in keys])
    means = [sum(loss for loss, _ in some.values()) / len(some) for some in (one, other)]
    train = splits["train"]["rows"]
    return f"| {rows} | {seed} | {train} | {splits['synthetic']} | {means[0]:.4f} | {means[1]:.4f} | {difference} |"


def compared(without: Sequence[float], having: Sequence[float], groups: Sequence[str]) -> str:
    """The mean difference of each item with its interval."""
    from tasks.evaluation.significance import difference_interval

    differences = [new - old for old, new in zip(without, having, strict=True)]
    found = difference_interval(differences, groups, confidence=0.95, resamples=10_000, seed=0)
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f}, {found.n} rows)"


if __name__ == "__main__":
    main()
