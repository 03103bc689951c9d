"""Are two stretches of files the same bytes? Settled at the speed of reading them, without numpy or torch.

`memcmp` releases the GIL as reading does, so that two readers run side by side; each has two small buffers that stay
in its core's cache.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence

from pytest_genmodel.checkpoints.spans import Span, SpanReader, Spans, size_of
from pytest_genmodel.tensors.memcmp import MEMCMP
from pytest_genmodel.tensors.threads import THREADS, PerThread, in_threads

__all__ = ["Span", "equal_spans", "first_differences"]

BUFFER = 512 * 1024
"""Bytes a side and thread: fits a core's second-level cache with room to spare."""
TASK = 32 * 1024 * 1024
"""Bytes that one thread takes at a time; a large tensor is shared between threads."""


def _nothing(count: int) -> None:
    """Ignore how many bytes were settled."""


def equal_spans(pairs: Sequence[tuple[Spans, Spans]], threads: int = THREADS) -> list[bool]:
    """Say for each pair whether both sides hold the same bytes; how they are cut into spans makes no difference.

    Raises:
        DamagedFileError: a file ends inside a span.
    """
    return [place is None for place in first_differences(pairs, threads)]


def first_differences(
    pairs: Sequence[tuple[Spans, Spans]],
    threads: int = THREADS,
    on_bytes: Callable[[int], None] = _nothing,
    on_difference: Callable[[], None] = lambda: None,
) -> list[int | None]:
    """Say for each pair up to where both sides are known to be equal; None where they are equal throughout.

    The place is a multiple of `BUFFER`, at or before the first byte that differs; 0 for sides of different size.
    Reading of a pair stops at its first difference.

    Args:
        pairs: the spans of either side, whose bytes are compared as if they lay in one place.
        threads: readers side by side.
        on_bytes: told how many bytes of one side have been found equal; called from several threads.
        on_difference: told of every difference, from the thread that meets it.

    Raises:
        DamagedFileError: a file ends inside a span.
    """
    places = [None if size_of(a) == size_of(b) else 0 for a, b in pairs]
    tasks: list[tuple[int, int, int]] = []
    for number, (a, b) in enumerate(pairs):
        size = size_of(a)
        if places[number] is None and a == b:
            on_bytes(size)
        elif places[number] is None:
            tasks += [(number, offset, min(TASK, size - offset)) for offset in range(0, size, TASK)]
    lock = threading.Lock()
    with SpanReader() as reader:
        both = _Reader(reader)

        def work(task: tuple[int, int, int]) -> None:
            number, offset, size = task
            if places[number] is not None:
                return
            same = both.equal_until(*pairs[number], offset, size)
            on_bytes(same)
            if same < size:
                on_difference()
                with lock:  # tasks of one tensor end in any order
                    place = places[number]
                    places[number] = offset + same if place is None else min(place, offset + same)

        small = sum(size for _, _, size in tasks) <= 2 * BUFFER
        for _ in in_threads(work, tasks, 1 if small else threads):
            pass
    return places


class _Reader:
    """Reads both sides into two buffers of its thread."""

    def __init__(self, reader: SpanReader) -> None:
        self._reader = reader
        self._buffers = PerThread(lambda: (_Buffer(), _Buffer()))

    def equal_until(self, ours: Spans, theirs: Spans, offset: int, size: int) -> int:
        """Of `size` bytes at `offset`, how many are equal before the first buffer with a difference."""
        a, b = self._buffers.get()
        for done in range(0, size, BUFFER):
            count = min(BUFFER, size - done)
            self._reader.read(ours, offset + done, a.view[:count])
            self._reader.read(theirs, offset + done, b.view[:count])
            if not a.starts_as(b, count):
                return done
        return size


class _Buffer:
    """A buffer that is read into and compared."""

    def __init__(self) -> None:
        self._bytes = bytearray(BUFFER)
        self.view = memoryview(self._bytes)
        self._address = ctypes.addressof((ctypes.c_char * BUFFER).from_buffer(self._bytes))

    def starts_as(self, other: _Buffer, count: int) -> bool:
        """Whether the first `count` bytes of both are equal."""
        if MEMCMP is not None:
            return bool(MEMCMP(self._address, other._address, count) == 0)
        return self._bytes[:count] == other._bytes[:count]
