"""Stretches of files, and reading them in pieces: into buffers that are used again, by several threads at once.

Small buffers stay in the processor's cache, and `pread` keeps memory constant at any size (a truncated file is an
error, not a bus error as with mmap). Nothing here needs numpy or torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError


@dataclass(frozen=True)
class Span:
    """Bytes `begin` to `end` (exclusive) of a file."""

    path: Path
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.begin


Spans = tuple[Span, ...]
"""The bytes of one tensor, one span after the other."""


def size_of(spans: Spans) -> int:
    """Number of bytes."""
    return sum(span.size for span in spans)


def cut(spans: Iterable[Span], begin: int, end: int) -> Spans:
    """The bytes `begin` to `end`, counted along `spans` as if they were one stretch."""
    found, position = [], 0
    for span in spans:
        first, last = max(begin - position, 0), min(end - position, span.size)
        if first < last:
            found.append(Span(span.path, span.begin + first, span.begin + last))
        position += span.size
    return tuple(found)


class SpanReader:
    """The open files of a job, closed at its end (a context manager). Any number of threads may read."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> SpanReader:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._files.values():
            os.close(handle)

    def read(self, spans: Spans, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes at `offset` of the spans taken together.

        Raises:
            DamagedFileError: a file ends inside its span.
        """
        done, count = 0, len(view)
        for span in spans:
            if done == count:
                return
            if offset >= span.size:
                offset -= span.size
                continue
            size = min(span.size - offset, count - done)
            self._fill(span.path, span.begin + offset, view[done : done + size])
            offset, done = 0, done + size
        if done < count:
            raise ValueError(f"{count - done} bytes beyond the end of the spans")

    def _fill(self, path: Path, place: int, view: memoryview) -> None:
        handle = self._handle(path)
        done = 0
        while done < len(view):
            if hasattr(os, "preadv"):
                count = os.preadv(handle, [view[done:]], place + done)
            else:
                with path.open("rb", buffering=0) as stream:  # no positioned reads: Windows
                    stream.seek(place + done)
                    count = stream.readinto(view[done:]) or 0
            if count == 0:
                raise DamagedFileError(
                    path,
                    Damage.TRUNCATED,
                    "the file ended inside a tensor while it was read",
                    action="Something else is writing to this file; judge it when that is done.",
                    offset=place + done,
                )
            done += count

    def _handle(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return self._files[path]
