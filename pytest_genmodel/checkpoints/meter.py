"""Bytes read so far, told to a `Progress` now and then rather than at every block."""

from __future__ import annotations

import threading
import time

from pytest_genmodel.checkpoints.progress import Progress

_INTERVAL = 0.1
"""Seconds between two reports."""


class Meter:
    """Counts bytes, from any number of threads; `finish` reports the total, so that nothing is left half-done."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0
        self._reported = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count `count` bytes more."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._reported >= _INTERVAL and self._done < self._total:
                self._reported = now
                self._progress(self._what, self._done, self._total, "B")

    def finish(self) -> None:
        """Report that all is done."""
        self._progress(self._what, self._total, self._total, "B")
