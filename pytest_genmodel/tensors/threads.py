"""One intra-op thread while tensors are compared.

Two OpenMP threads on busy cores cost up to 100 times (pytest-xdist and shared runners are exactly that), and another
thread count changes the last bits of a sum. So comparators and tiny models run under :func:`one_thread`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
