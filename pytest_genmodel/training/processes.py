"""Ending a trainer with every process that it has started, those in groups of their own too."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

GRACE_SECONDS = 5.0
"""Between asking processes to end and ending them."""
_PROC = Path("/proc")


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
