"""A temporary folder that goes with the process, however the process goes: at its end, or by SIGTERM.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from types import FrameType

_open: set[WorkFolder] = set()
"""The folders that a signal has to remove."""


class WorkFolder:
    """A folder that is made when it is first asked for and removed by `close`; may be asked for again after that.

    SIGTERM, with which CI ends a job, removes it too where nobody else handles that signal. With `keep` it is never
    removed.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._path: Path | None = None
        self._owner = 0
        self._keep = keep

    @property
    def path(self) -> Path:
        """The folder, empty at first."""
        if self._path is None:
            _end_with_the_process()
            self._owner = os.getpid()
            self._path = Path(tempfile.mkdtemp(prefix="genmodel-"))
            if not self._keep:
                _open.add(self)
        return self._path

    @property
    def kept(self) -> Path | None:
        """The folder, where it was made and is to stay."""
        return self._path if self._keep else None

    def close(self) -> None:
        """Remove the folder with what is in it. A forked child leaves it to the process that made it."""
        if self._keep:
            return
        if self._path is not None and self._owner == os.getpid():
            shutil.rmtree(self._path, ignore_errors=True)
        self._path = None
        _open.discard(self)


def close_all() -> None:
    """Remove every folder that is still open."""
    for folder in tuple(_open):
        folder.close()


def _end_with_the_process() -> None:
    """Take over SIGTERM where it would end the process at once; signals can be set in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _ended)


def _ended(number: int, _: FrameType | None) -> None:
    """Clean up, then die of the signal as if nobody had looked."""
    close_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


atexit.register(close_all)
