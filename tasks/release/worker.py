"""The export process: `python -m tasks.release.worker JOB.json` writes the artifact and `parity.json`."""

import sys
from pathlib import Path

from tasks.process import emit, hush
from tasks.release import parity
from tasks.release.job import ExportJob


def main(arguments: list[str]) -> int:
    """Export the job in the file `arguments[0]`."""
    import torch

    from tasks.models import dtype_of, load_tokenizer, load_trained

    hush()
    job = ExportJob.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    torch.set_num_threads(job.threads)
    dtype = dtype_of(job.trained.plan.precision)
    tokenizer = load_tokenizer(job.tokenizer, job.trained.base.trust_remote_code)
    prompts = parity.golden_prompts(job.golden_file, job.golden_prompts)
    end = tokenizer.eos_token_id
    artifact = job.out / "model"
    emit("progress", done=0, total=3)
    device = "cuda" if job.trained.plan.accelerator == "cuda" and torch.cuda.is_available() else "cpu"
    trained = load_trained(job.trained, job.weights, dtype).to(device)
    expected = parity.say(trained, prompts, job.new_tokens, end)
    emit("progress", done=1, total=3)
    job.exporter.export(trained, artifact)
    tokenizer.save_pretrained(str(artifact))
    emit("progress", done=2, total=3)
    exported = job.exporter.load(artifact, job.trained, dtype).to(device)
    found = parity.say(exported, prompts, job.new_tokens, end)
    result = parity.compare(expected, found, job.exporter.tolerance(job.trained))
    (job.out / "parity.json").write_text(result.model_dump_json(), encoding="utf-8")
    emit("progress", done=3, total=3)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
