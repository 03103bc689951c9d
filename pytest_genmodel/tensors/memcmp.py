"""libc's memcmp: in every process, stops at the first difference, and lets another thread run. Imports no torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import cast


def _find() -> Callable[[int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).memcmp
    except (OSError, TypeError, AttributeError):  # no process-wide libc to ask (Windows)
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    function.restype = ctypes.c_int
    return cast("Callable[[int, int, int], int]", function)


MEMCMP = _find()
"""Takes two addresses and a number of bytes, and gives 0 where they are equal; None where there is none to call."""
