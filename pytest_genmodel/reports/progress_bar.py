"""How far a long job is, shown: a bar that erases itself on a terminal, a plain line now and then elsewhere.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from pytest_genmodel.reports.text import printable, size_text

REDRAWN = 0.1
"""Seconds between two pictures of a bar."""
SPARED = 0.3
"""Seconds of reading before a bar is shown: what is done sooner would only flicker."""
LINES_APART = 10.0
"""Seconds before the first line and between two, where nobody watches."""
_CELLS = 20


@dataclass
class _Job:
    """A job that is told of: what it is, when and where counting began, how far it is."""

    what: str
    total: int
    unit: str
    began: float
    first: int
    done: int
    shown: float | None = None

    def rate(self, now: float) -> float | None:
        """Units a second, None before anything can be said."""
        passed = now - self.began
        return (self.done - self.first) / passed if passed > 0.2 and self.done > self.first else None

    def figures(self, now: float) -> str:
        """Done and total, and for bytes the rate."""
        if self.unit != "B":
            return f"{self.done}/{self.total}{self.unit and ' '}{self.unit}"
        rate = self.rate(now)
        return f"{_of(self.done, self.total)}{f', {size_text(rate)}/s' if rate else ''}"

    @property
    def percent(self) -> int:
        """Whole percents done."""
        return 100 * self.done // self.total if self.total else 100


def _of(done: int, total: int) -> str:
    """`4.3 of 10.4 GB`, with both units where they differ."""
    left, right = size_text(done), size_text(total)
    return f"{left.split()[0] if left.split()[1] == right.split()[1] else left} of {right}"


class ProgressView(ABC):
    """A progress that is shown; may be called from several threads.

    Args:
        write: takes the text as it is to appear.
        clock: seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._lock = threading.Lock()
        self._job: _Job | None = None

    def __call__(self, what: str, done: int, total: int, unit: str = "") -> None:
        """Take in how far a job is, and show it where it is time to."""
        with self._lock:
            now, job = self._clock(), self._job
            if job is None or (job.what, job.total, job.unit) != (what, total, unit):
                job = self._job = _Job(what, total, unit, now, done, done)
            job.done = max(job.done, done)
            if done >= total:
                self._end()
            else:
                self._show(job, now)

    def clear(self) -> None:
        """Take away what is shown: the job is done, or was broken off."""
        with self._lock:
            self._end()

    @abstractmethod
    def _show(self, job: _Job, now: float) -> None:
        """Show the job, if it is time."""

    def _end(self) -> None:
        self._job = None


class ProgressBar(ProgressView):
    """One line, behind whatever stands on the terminal's current line; gone without a trace when the job is done.

    Args:
        write: takes the text as it is to appear.
        room: columns left on the current line.
        clock: seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        room: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(write, clock)
        self._room = room
        self._width = 0

    def _show(self, job: _Job, now: float) -> None:
        if job.unit == "B" and now - job.began < SPARED:
            return
        if job.shown is not None and now - job.shown < REDRAWN and job.unit == "B":
            return
        job.shown = now
        self._put(_fitting(job, now, self._room()))

    def _put(self, text: str) -> None:
        """Write `text` over what stands there, and go back to where it began."""
        padded = text.ljust(self._width)
        self._width = len(text)
        if padded:
            self._write(padded + "\b" * len(padded))

    def _end(self) -> None:
        super()._end()
        self._put("")


def _fitting(job: _Job, now: float, room: int) -> str:
    """The longest picture of a job that fits into `room` columns."""
    what, figures = printable(job.what), job.figures(now)
    if job.unit != "B":
        pictures = [f" {what} {figures}", f" {figures}"]
    else:
        full = _CELLS * job.percent // 100
        bar = f"[{'#' * full}{'.' * (_CELLS - full)}]"
        percent = f"{job.percent:3d}%"
        pictures = [
            f" {what} {bar} {percent}, {figures}",
            f" {what} {percent}, {figures}",
            f" {what} {percent}",
            f" {percent}",
        ]
    return next((picture for picture in pictures if len(picture) <= room), "")


class ProgressLines(ProgressView):
    """A line every ten seconds for a job that lasts so long; `write` takes it without a line end."""

    def _show(self, job: _Job, now: float) -> None:
        if now - (job.began if job.shown is None else job.shown) < LINES_APART:
            return
        job.shown = now
        figures = job.figures(now)
        self._write(f"genmodel: {printable(job.what)}: {f'{job.percent}%, ' if job.unit else ''}{figures}")
