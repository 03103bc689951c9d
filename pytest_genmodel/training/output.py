"""What a command prints: read as it comes, the last lines kept, whatever the amount."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import IO

LINES_KEPT = 60
LONGEST_LINE = 2000
"""Bytes after which a line is cut in two: a progress bar, 100 MB of noise."""
BAR_SECONDS = 1.0
"""Between two states of a progress bar that are shown, where it goes back with `\\r` and never ends a line."""
_BLOCK = 1 << 16


class OutputReader:
    """Reads a stream to its end; at most a block and `LINES_KEPT` lines are in memory.

    What `\\r` takes back is not kept: of a progress bar there is its last state.

    Args:
        stream: what the command writes to.
        echo: is given each line as it comes, and a progress bar's state once in `BAR_SECONDS`.
    """

    def __init__(self, stream: IO[bytes], echo: Callable[[str], None] | None = None) -> None:
        self._stream = stream
        self._echo = echo
        self._kept: deque[bytes] = deque(maxlen=LINES_KEPT)
        self._rest = b""
        self._shown_at = 0.0

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines, one without an end included."""
        rest = [self._rest] if self._rest else []
        return tuple(map(_text, [*self._kept, *rest][-LINES_KEPT:]))

    def run(self) -> None:
        """Read until the last process that holds the other end has gone."""
        read = getattr(self._stream, "read1", self._stream.read)
        while block := read(_BLOCK):
            self._take(block)
        if self._echo is not None and self._rest:
            self._echo(_text(self._rest))

    def _take(self, block: bytes) -> None:
        *lines, rest = (self._rest + block).split(b"\n")
        is_bar = b"\r" in rest
        *more, self._rest = _pieces(_last_state(rest))
        if self._echo is not None:
            for line in (*lines, *more):
                for piece in _pieces(_last_state(line)):
                    self._echo(_text(piece))
            if is_bar:
                self._show_bar(self._echo)
        for line in (*lines[-LINES_KEPT:], *more):
            self._kept.extend(_pieces(_last_state(line)))

    def _show_bar(self, echo: Callable[[str], None]) -> None:
        now = time.monotonic()
        if now - self._shown_at >= BAR_SECONDS:
            self._shown_at = now
            echo(_text(self._rest))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _last_state(line: bytes) -> bytes:
    """What stands there when a terminal has gone back with each `\\r`."""
    return next((state for state in reversed(line.split(b"\r")) if state), b"") if b"\r" in line else line


def _pieces(line: bytes) -> list[bytes]:
    """A long line in pieces that can be kept; at least one."""
    return [line[at : at + LONGEST_LINE] for at in range(0, len(line), LONGEST_LINE)] or [b""]
