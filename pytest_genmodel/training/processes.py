"""Ending a trainer with every process that it has started, those in groups of their own too."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 5.0
"""Between asking processes to end and ending them."""
_PROC = Path("/proc")
_LAST_SECOND = 1.0
"""Of the same where this process is being ended itself."""


def end_run(process: subprocess.Popen[bytes], mark: str) -> None:
    """End the process's group, and what else was started with `mark` (`NAME=value`) in its environment.

    torchrun starts its workers in groups of their own, which outlive a launcher that is killed; the system tells of
    them where it has /proc. Asked first (SIGTERM), ended after `GRACE_SECONDS`.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _signal(process, mark, number):
            break  # nobody is left
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and _alive(process, mark):
            time.sleep(0.02)
    process.wait()


@contextmanager
def ended_with_us(process: subprocess.Popen[bytes], mark: str) -> Iterator[None]:
    """End the run where this process is ended by SIGTERM, with which CI ends a job, before what happens then."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        _signal(process, mark, signal.SIGTERM)
        deadline = time.monotonic() + _LAST_SECOND
        while time.monotonic() < deadline and any(True for _ in _marked(mark)):
            time.sleep(0.02)
        _signal(process, mark, signal.SIGKILL)
        signal.signal(number, before)
        if callable(before):
            before(number, frame)
        else:
            os.kill(os.getpid(), number)

    if before is not None:  # one that C code has set cannot be put back
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if before is not None and signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, before)


def _signal(process: subprocess.Popen[bytes], mark: str, number: int) -> bool:
    """Send a signal to everybody; whether there was anybody."""
    found = False
    try:
        os.killpg(process.pid, number)
        found = True
    except (ProcessLookupError, PermissionError):
        pass
    for pid in _marked(mark):
        try:
            os.kill(pid, number)
            found = True
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _alive(process: subprocess.Popen[bytes], mark: str) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
        return True
    except (ProcessLookupError, PermissionError):
        return any(True for _ in _marked(mark))


def _marked(mark: str) -> Iterator[int]:
    """Processes of this user that were started with `mark` in their environment; those that have ended are none."""
    wanted = mark.encode()
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):  # empty for one that has ended
                yield int(entry.name)
        except OSError:  # another user's, or gone meanwhile
            continue
