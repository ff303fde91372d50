"""Whether every rank still computes: each one beats, and the process that started them listens.

A rank writes `beats/<rank>.json` beside its checkpoints twice a second: how many forward passes it has finished, and how long
they took. Ranks wait for each other in every step, so that one that hangs holds up all: it is the one that finished the fewest.
"""

import contextvars
import faulthandler
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, median_low
from typing import Any

BEATS = "beats"  # the folder beside the checkpoints
HOST = "TUNEFLOW_HOST"  # names the host of a rank in its environment, where there are several
_WRITE_SECONDS = 0.5
_WRITING = 10  # times as long is waited while a checkpoint is written
_SINGLE = 1e-4  # seconds; differences below are noise


@dataclass(frozen=True)
class Patience:
    """When a rank is given up, and when one is called slow.

    Attributes:
        floor_seconds: no rank hangs that was silent for less.
        passes: of the usual time between two passes, so many without one are too many.
        slow: a rank is slow whose passes take that many times the others'.
        over: passes that are looked at for that.
        dump_seconds: that a rank has to write where it hangs.
    """

    floor_seconds: float = 300.0
    passes: float = 50.0
    slow: float = 2.0
    over: int = 20
    dump_seconds: float = 2.0


@dataclass(frozen=True)
class Beat:
    """What a rank last said of itself."""

    rank: int
    pid: int
    host: str
    ranks: int
    passes: int
    pass_seconds: float  # median of a forward pass
    gap_seconds: float  # median between the ends of two


class Heart:
    """One rank's beat: it hooks into the forward passes of `module`.

    Args:
        folder: where the beats are written.
        rank: which.
        ranks: of how many.
        module: the model that learns.
        over: passes of which medians are taken.
    """

    def __init__(self, folder: Path, rank: int, ranks: int, module: Any, over: int = Patience.over) -> None:
        self._path, self._rank, self._ranks = folder / f"{rank}.json", rank, ranks
        self._passes, self._began, self._ended = 0, 0.0, 0.0
        self._spans: deque[float] = deque(maxlen=over)
        self._gaps: deque[float] = deque(maxlen=over)
        self._over = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._hooks = [module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end)]
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say no more: what follows training has no passes, and nobody is to miss them."""
        self._over.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: object) -> None:
        self._began = time.monotonic()

    def _end(self, *_: object) -> None:
        now = time.monotonic()
        self._spans.append(now - self._began)
        if self._ended:
            self._gaps.append(now - self._ended)
        self._ended = now
        self._passes += 1

    def _write(self) -> None:
        fresh = self._path.with_suffix(".new")
        while not self._over.wait(_WRITE_SECONDS):
            spans, gaps = tuple(self._spans), tuple(self._gaps)
            beat = {
                "rank": self._rank, "pid": os.getpid(), "host": os.environ.get(HOST, ""), "ranks": self._ranks,
                "passes": self._passes, "pass_seconds": median(spans or (0.0,)), "gap_seconds": median(gaps or (0.0,)),
            }  # fmt: skip
            with suppress(OSError):  # a beat that is lost is followed by another one
                fresh.write_text(json.dumps(beat), encoding="utf-8")
                fresh.replace(self._path)


@contextmanager
def beating(folder: Path, rank: int, ranks: int, module: Any) -> Iterator[None]:
    """Beat while the context lasts, and write the stack of every thread to the log on SIGUSR1."""
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
    heart = Heart(folder, rank, ranks, module)
    try:
        yield
    finally:
        heart.stop()


def read(folder: Path) -> list[Beat]:
    """The last beat of each rank; those that an earlier, larger group left do not count."""
    beats: list[Beat] = []
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            beats.append(Beat(**json.loads(path.read_text(encoding="utf-8"))))
    first = next((beat for beat in beats if beat.rank == 0), None)
    return sorted((beat for beat in beats if first and beat.rank < first.ranks), key=lambda beat: beat.rank)


@dataclass
class Judgement:
    """What the beats of all ranks say; `look` is called again and again.

    Args:
        patience: when a rank is given up.
    """

    patience: Patience
    slowest_checkpoint: float = 0.0
    writing: bool = False
    _heard: dict[int, tuple[int, float]] = field(default_factory=dict)
    _told: set[int] = field(default_factory=set)
    _anew: bool = False

    def hung(self, beats: list[Beat], now: float) -> tuple[list[Beat], str]:
        """The ranks that hang, and the sentence that says so; none where all is well."""
        if self._anew:
            self._anew = False
            self._heard.clear()
        for beat in beats:
            passes, _ = self._heard.get(beat.rank, (-1, 0.0))
            if beat.passes != passes:
                self._heard[beat.rank] = (beat.passes, now)
        started = [beat for beat in beats if beat.passes]
        if not started or len(started) < len(beats):
            return [], ""
        usual = median(beat.gap_seconds for beat in started)
        limit = max(self.patience.floor_seconds, self.patience.passes * usual, 4 * self.slowest_checkpoint)
        limit *= _WRITING if self.writing else 1
        silent = min(now - self._heard[beat.rank][1] for beat in started)
        if silent < limit:
            return [], ""
        fewest = min(beat.passes for beat in started)
        behind = [beat for beat in started if beat.passes == fewest]
        return behind, (
            f"{_names(behind)} finished no pass for {silent:.0f} s, after {fewest}; one takes {usual:.2g} s, and {limit:.0f} s "
            "were waited"
        )

    def forget(self) -> None:
        """Begin anew with the next beats: the ranks that were heard are gone. May be called from another thread."""
        self._anew = True

    def slow(self, beats: list[Beat]) -> list[str]:
        """A sentence for each rank that became slow; each rank is told of once."""
        measured = [beat for beat in beats if beat.passes >= self.patience.over and beat.pass_seconds > _SINGLE]
        if len(measured) < 2 or len(measured) < len(beats):
            return []
        usual = median_low(beat.pass_seconds for beat in measured)
        found = [
            beat for beat in measured
            if beat.pass_seconds > self.patience.slow * usual and beat.rank not in self._told
        ]  # fmt: skip
        self._told |= {beat.rank for beat in found}
        return [
            f"{_names([beat])} is slow: its forward passes take {beat.pass_seconds:.2g} s, others' {usual:.2g} s (medians of "
            f"{self.patience.over}); all ranks wait for it. Look at that device: temperature, power limit, other processes."
            for beat in found
        ]  # fmt: skip


class Vigil:
    """Listens to the ranks of one attempt from a thread; ends them where one hangs.

    Args:
        folder: where they beat.
        patience: when a rank is given up.
        send: sends a signal to ranks.
        tell: called with each sentence about a slow rank.
    """

    def __init__(
        self, folder: Path, patience: Patience, send: Callable[[list[Beat], int], None], tell: Callable[[str], None]
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.found = ""
        self.judgement = Judgement(patience)
        self._folder, self._send, self._tell = folder, send, tell
        self._over = threading.Event()
        # What is told may be logged for the flow run, which the context of this thread knows.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._listen,), daemon=True)

    def __enter__(self) -> "Vigil":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def note(self, event: dict[str, Any]) -> None:
        """Take account of an event of the ranks: while a checkpoint is written, nobody computes."""
        if event["kind"] == "started":
            self.found, self.judgement.writing = "", False
            self.judgement.forget()
        elif event["kind"] == "writing":
            self.judgement.writing = True
        elif event["kind"] == "checkpoint":
            self.judgement.writing = False
            self.judgement.forget()
            self.judgement.slowest_checkpoint = max(self.judgement.slowest_checkpoint, float(event.get("seconds", 0.0)))

    def _listen(self) -> None:
        while not self._over.wait(_WRITE_SECONDS):
            beats = read(self._folder)
            for sentence in self.judgement.slow(beats):
                self._tell(sentence)
            behind, why = self.judgement.hung(beats, time.monotonic())
            if behind:
                self.found = why
                self._end(beats)
                self.judgement.forget()

    def _end(self, beats: list[Beat]) -> None:
        """Have every rank say where it is, then end it: those that wait for the one that hangs would wait for long."""
        self._send(beats, signal.SIGUSR1)
        self._over.wait(self.judgement.patience.dump_seconds)
        self._send(beats, signal.SIGKILL)


def _names(beats: list[Beat]) -> str:
    places = [f"{beat.rank} on {beat.host}" if beat.host else str(beat.rank) for beat in beats]
    return f"rank{'s' if len(beats) > 1 else ''} {', '.join(places)}"


def send(beats: list[Beat], number: int, remote: Callable[[str, list[str]], None] | None = None) -> None:
    """Send a signal to ranks, those of other hosts through `remote`, which runs a command on a host."""
    for host in sorted({beat.host for beat in beats}):
        pids = [beat.pid for beat in beats if beat.host == host]
        if host and remote:
            remote(host, [sys.executable, "-m", "tasks.training.heartbeats", str(number), *map(str, pids)])
        else:
            signal_ranks(number, pids)


def signal_ranks(number: int, pids: list[int]) -> None:
    """Send a signal to each process that still is a rank: a number may have been given to another one since."""
    for pid in pids:
        with suppress(OSError):
            if b"tasks.training.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, number)


if __name__ == "__main__":
    signal_ranks(int(sys.argv[1]), [int(word) for word in sys.argv[2:]])
