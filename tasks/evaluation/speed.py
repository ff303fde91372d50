"""How fast one model answers one request at a time, measured: what a user of an endpoint without batching would wait
for.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from tasks.contracts import ModelRole, Speed
from tasks.evaluation.metrics import Subject, greedy_settings, prompt_ids

REQUESTS = 8  # timed, after one that is not
OUTPUT_TOKENS = 32


class _Clock:
    """A streamer of transformers' form that notes when tokens arrive; the first call brings the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        """Note the time; the tokens themselves are not needed."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is held back."""


def measure(subject: Subject, role: ModelRole, prompts: Sequence[str], max_new_tokens: int) -> Speed:
    """Time up to eight requests, one after the other, each of exactly min(32, max_new_tokens) new tokens.

    Tokens per second count the reading of the prompt. An adapter is measured beside its base, not merged into it.
    Memory is the device's peak for CUDA, the process's (weights and libraries included) for CPU.
    """
    import numpy as np

    new = min(OUTPUT_TOKENS, max_new_tokens)
    limit = max(1, subject.max_positions - new)
    requests = [prompt_ids(subject, prompt)[-limit:] for prompt in prompts[:REQUESTS]]
    _time_request(subject, requests[0], new)
    _forget_peak(subject.device)
    timed = [_time_request(subject, request, new) for request in requests]
    first = np.array([seconds for seconds, _ in timed]) * 1000
    return Speed(
        model=role,
        prompt_tokens=round(sum(map(len, requests)) / len(requests)),
        output_tokens=new,
        first_token_ms_p50=float(np.percentile(first, 50)),
        first_token_ms_p95=float(np.percentile(first, 95)),
        tokens_per_second=new * len(timed) / sum(seconds for _, seconds in timed),
        peak_memory_gib=_peak_bytes(subject.device) / 2**30,
    )


def _time_request(subject: Subject, ids: Sequence[int], new: int) -> tuple[float, float]:
    """Seconds to the first new token and to the last."""
    import torch

    clock = _Clock()
    batch = torch.tensor([list(ids)], device=subject.device)
    started = time.perf_counter()
    with torch.inference_mode():
        subject.model.generate(
            input_ids=batch,
            attention_mask=torch.ones_like(batch),
            generation_config=greedy_settings(subject, new, min_new_tokens=new),
            streamer=clock,
        )
    return clock.times[1] - started, clock.times[-1] - started


def _forget_peak(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM; proc(5)
    except OSError:
        return  # not allowed here: the peak is then that of the whole process so far


def _peak_bytes(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
