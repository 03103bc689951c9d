"""Are two stretches of files the same bytes? Settled at the speed of reading them, without numpy or torch.

Small reused buffers stay in the processor's cache, `pread` keeps memory constant at any size (and a truncated file
is an error, not a bus error as with mmap), and `memcmp` releases the GIL, so that two readers run side by side: on
a cold cache that matters more than anything else.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BUFFER = 512 * 1024
"""Bytes a side and thread: fits a core's second-level cache with room to spare."""
TASK = 32 * 1024 * 1024
"""Bytes that one thread takes at a time; a large tensor is shared between threads."""
THREADS = 2


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


def equal_spans(pairs: Sequence[tuple[Span, Span]], threads: int = THREADS) -> list[bool]:
    """Say for each pair whether both spans hold the same bytes; reading of a pair stops at its first difference.

    Args:
        pairs: spans of equal or different size; different sizes are never equal.
        threads: readers side by side.

    Raises:
        OSError: a file cannot be read, or ends inside a span.
    """
    verdicts = [a.size == b.size for a, b in pairs]
    tasks = [
        (number, offset, min(TASK, a.size - offset))
        for number, (a, b) in enumerate(pairs)
        if verdicts[number] and (a.path, a.begin) != (b.path, b.begin)
        for offset in range(0, a.size, TASK)
    ]
    with _Readers() as readers:

        def work(task: tuple[int, int, int]) -> None:
            number, offset, size = task
            if verdicts[number]:
                a, b = pairs[number]
                if not readers.equal((a.path, a.begin + offset), (b.path, b.begin + offset), size):
                    verdicts[number] = False

        if sum(size for _, _, size in tasks) <= 2 * BUFFER or threads == 1:
            for task in tasks:
                work(task)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, tasks))
    return verdicts


class _Readers:
    """Open files, and two buffers for each thread."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._files.values():
            os.close(handle)

    def equal(self, ours: tuple[Path, int], theirs: tuple[Path, int], size: int) -> bool:
        """Whether `size` bytes are equal at two places."""
        a, b = self._buffers()
        left, right = self._handle(ours[0]), self._handle(theirs[0])
        for offset in range(0, size, BUFFER):
            count = min(BUFFER, size - offset)
            a.fill(left, ours[1] + offset, count, ours[0])
            b.fill(right, theirs[1] + offset, count, theirs[0])
            if not a.starts_as(b, count):
                return False
        return True

    def _handle(self, path: Path) -> int:
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return self._files[path]

    def _buffers(self) -> tuple[_Buffer, _Buffer]:
        if not hasattr(self._local, "pair"):
            self._local.pair = (_Buffer(), _Buffer())
        pair: tuple[_Buffer, _Buffer] = self._local.pair
        return pair


def _libc_memcmp() -> Callable[[int, int, int], int] | None:
    try:
        memcmp = ctypes.CDLL(None).memcmp
    except (OSError, TypeError, AttributeError):  # no such library by that name: Windows
        return None
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    memcmp.restype = ctypes.c_int
    return memcmp


_MEMCMP = _libc_memcmp()


class _Buffer:
    """A buffer that is read into and compared."""

    def __init__(self) -> None:
        self._bytes = bytearray(BUFFER)
        self._view = memoryview(self._bytes)
        self._address = ctypes.addressof((ctypes.c_char * BUFFER).from_buffer(self._bytes))

    def fill(self, handle: int, offset: int, count: int, path: Path) -> None:
        """Read `count` bytes at `offset`; raises OSError where the file ends before."""
        done = 0
        while done < count:
            if hasattr(os, "preadv"):
                read = os.preadv(handle, [self._view[done:count]], offset + done)
            else:
                with path.open("rb", buffering=0) as stream:  # no positioned reads: Windows
                    stream.seek(offset + done)
                    read = stream.readinto(self._view[done:count]) or 0
            if read == 0:
                raise OSError(f"{path.name} ends at byte {offset + done}, inside a tensor")
            done += read

    def starts_as(self, other: _Buffer, count: int) -> bool:
        """Whether the first `count` bytes of both are equal."""
        if _MEMCMP is not None:
            return bool(_MEMCMP(self._address, other._address, count) == 0)
        return self._bytes[:count] == other._bytes[:count]
