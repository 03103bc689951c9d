"""Blocks of any dtype in the arithmetic of one: float32 where that is exact, else float64."""

from __future__ import annotations

from functools import lru_cache

import torch

from .dtypes import kind_of

_EXACT_IN_FLOAT32 = frozenset(
    getattr(torch, name)
    for name in ("float32", "float16", "bfloat16", "bool", "uint8", "int8", "uint16", "int16")
    if hasattr(torch, name)
)


def working_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The narrower of float32 and float64 that holds every value of these real dtypes.

    Integers of 64 bits are the exception: float64 rounds those beyond 2^53.
    """
    narrow = all(dtype in _EXACT_IN_FLOAT32 or _is_small_float(dtype) for dtype in dtypes)
    return torch.float32 if narrow else torch.float64


def _is_small_float(dtype: torch.dtype) -> bool:
    return kind_of(dtype) == "float" and dtype.itemsize == 1


class Widening:
    """Loads flat blocks of at most `size` elements into one buffer of the working dtype."""

    def __init__(self, dtype: torch.dtype, work: torch.dtype, size: int) -> None:
        self._as_it_is = dtype == work
        self._buffer = torch.empty(0 if self._as_it_is else size + 1, dtype=work)
        self._lookup = work == torch.float32 and _is_small_float(dtype)
        self._keys = torch.empty(size // 2 + 1 if self._lookup else 0, dtype=torch.int32)

    def load(self, block: torch.Tensor) -> torch.Tensor:
        """The block in the working dtype; itself, where it is in it already. Good until the next block."""
        if self._as_it_is:
            return block
        count = block.numel()
        if not self._lookup or block.storage_offset() % 2:
            return self._buffer[:count].copy_(block)
        even = count - count % 2
        keys = self._keys[: even // 2].copy_(block[:even].view(torch.uint16))
        # torch converts float8 one by one, at 2.5 ns; looking up two at a time takes 0.2 ns.
        pairs = self._buffer[:even].view(torch.int64)
        torch.index_select(_pairs_of(block.dtype), 0, keys, out=pairs)
        if count % 2:
            self._buffer[even] = block[even]
        return self._buffer[:count]


@lru_cache
def _pairs_of(dtype: torch.dtype) -> torch.Tensor:
    """For every two bytes, the two float32 values that they are in an 8-bit dtype, as one int64."""
    keys = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    return keys.view(torch.uint8).view(dtype).to(torch.float32).view(torch.int64)
