"""One intra-op thread while tensors are compared, and threads of our own over their blocks.

Two OpenMP threads on busy cores cost up to 100 times (pytest-xdist and shared runners are exactly that), and another
thread count changes the last bits of a sum. So comparators and tiny models run under :func:`one_thread`; what is
large is cut into tasks, always the same ones, and :func:`in_threads` does them. Importing this imports no torch.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, Generic, TypeVar

THREADS = 2
"""Enough for two readers of a cold disk, which matters more than anything else there, and for every runner."""

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
_Owned = TypeVar("_Owned")

_lock = threading.Lock()
_depth = 0
_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body under one intra-op thread of torch; the previous count comes back, also after an exception.

    Nested and concurrent use is safe: the first to enter remembers the count, the last to leave restores it.
    """
    import torch

    global _depth, _before
    with _lock:
        if _depth == 0:
            _before = torch.get_num_threads()
            torch.set_num_threads(1)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                torch.set_num_threads(_before)


def in_threads(
    work: Callable[[_Task], _Result], tasks: Iterable[_Task], threads: int = THREADS
) -> Iterator[_Result]:
    """Do the tasks in order, in so many threads at once, and give the results in the order of the tasks.

    An exception (of a task, or Ctrl-C) lets running tasks end and starts no other; so does leaving the loop.
    """
    if threads == 1:
        yield from map(work, tasks)
        return
    with _HeldInterrupt() as interrupt:
        pool = ThreadPoolExecutor(threads, thread_name_prefix="genmodel", initializer=_take_count)
        try:
            for result in pool.map(work, tasks):
                interrupt.deliver()
                yield result
                interrupt.deliver()
        finally:
            pool.shutdown(cancel_futures=True)


class _HeldInterrupt:
    """Ctrl-C, held back from the body until `deliver` or its end, and then given to whoever handled it before.

    CPython raises KeyboardInterrupt between any two steps, also between those of the locks with which a pool is
    waited for: one that is then released twice ends the job with `RuntimeError: release unlocked lock`, one that is
    never released lets it hang. In the main thread alone, where signals arrive; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._before: Callable[[int, FrameType | None], Any] | None = None
        self._held: int | None = None
        self._over = False

    def __enter__(self) -> _HeldInterrupt:
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._hold)
        return self

    def __exit__(self, *_: object) -> None:
        ours = signal.getsignal(signal.SIGINT) == self._hold
        self._over = True
        if ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)
        self.deliver()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._over and self._before is not None:  # left in place: jobs that overlap need not end in turn
            self._before(number, frame)
        else:
            self._held = number

    def deliver(self) -> None:
        """Let a signal that came have its effect here."""
        number, self._held = self._held, None
        if number is not None and self._before is not None:
            self._before(number, None)


def _take_count() -> None:
    """Make this thread use as many intra-op threads as torch was told to.

    Torch does so by itself, but not before the first product of a new thread, which MKL then computes with all
    processors: slower, and with other last digits.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].get_num_threads()


class PerThread(Generic[_Owned]):
    """Something that every thread has for itself; made when a thread first asks."""

    def __init__(self, make: Callable[[], _Owned]) -> None:
        self._make = make
        self._local = threading.local()

    def get(self) -> _Owned:
        """What belongs to this thread."""
        if not hasattr(self._local, "owned"):
            self._local.owned = self._make()
        owned: _Owned = self._local.owned
        return owned
