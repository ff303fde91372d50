"""Progress of long work: a bar with the time left on a terminal, now and then a line elsewhere."""

import logging
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

log = logging.getLogger("tuneflow")
_SECONDS_BETWEEN_LINES = 10.0


def in_words(seconds: float) -> str:
    """A length of time for people.

    >>> in_words(90.4), in_words(600), in_words(11_000)
    ('90 s', '10 min', '3.1 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Reporter:
    """Shows how far one step is.

    Args:
        name: of the step.
        terminal: whether a bar can be drawn; None finds out.
    """

    def __init__(self, name: str, terminal: bool | None = None) -> None:
        self.name = name
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first news came, and how far it was

    def update(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """Say that `done` of `total` is done, and how long the rest takes; None: found from the pace so far."""
        self._first = self._first or (time.monotonic(), done)
        if self._terminal:
            self._draw(done, total)
        elif time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            left = self._left(done, total) if seconds_left is None else in_words(seconds_left)
            log.info("%s: %d of %d, about %s left", self.name, done, total, left)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _left(self, done: int, total: int) -> str:
        assert self._first is not None
        started, before = self._first
        if done <= before:
            return "?"
        seconds = (time.monotonic() - started) / (done - before) * (total - done)
        return in_words(seconds)

    def _draw(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bar is None:
            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=total)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)
