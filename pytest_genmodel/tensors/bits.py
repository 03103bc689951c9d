"""The first look at two tensors: are all bits the same, and is there a NaN among them?"""

from __future__ import annotations

import math
from enum import Enum

import torch

from .blocks import (
    BLOCK,
    Block,
    blocks,
    flat,
    runs,
    same_bits,
    same_memory,
    same_storage,
    threads_for,
)
from .dtypes import kind_of
from .threads import in_threads


class Bits(Enum):
    """What a look at the bits of two tensors tells."""

    DIFFERENT = "different"
    SAME = "same"
    SAME_WITH_NAN = "same, and there is a NaN among them"


def look_at_bits(actual: torch.Tensor, expected: torch.Tensor, *, ask_nan: bool) -> Bits:
    """Whether two tensors of one shape and dtype hold the same bits and, on request, a NaN."""
    small = expected.numel() <= BLOCK or same_storage(actual, expected)
    if small or not ask_nan or kind_of(expected.dtype) not in ("float", "complex"):
        if not same_bits(actual, expected):
            return Bits.DIFFERENT
        return Bits.SAME_WITH_NAN if ask_nan and holds_nan(expected) else Bits.SAME
    actual, expected = flat(actual, expected)

    def look(run: list[Block]) -> Bits:
        nan = False
        for block in run:  # while the values are in the cache
            first, second = block.of(actual), block.of(expected)
            if not same_memory(first, second):
                return Bits.DIFFERENT
            nan = nan or _block_holds_nan(second)
        return Bits.SAME_WITH_NAN if nan else Bits.SAME

    work = runs(tuple(expected.shape))
    seen = look(next(work))  # what differs, differs here most of the time: no thread is started
    if seen is Bits.DIFFERENT:
        return seen
    for more in in_threads(look, work, threads_for(expected)):
        if more is Bits.DIFFERENT:
            return more
        seen = more if more is Bits.SAME_WITH_NAN else seen
    return seen


def holds_nan(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds a NaN, at the price of one sum."""
    if kind_of(tensor.dtype) not in ("float", "complex"):
        return False
    return any(_block_holds_nan(block.of(tensor)) for block in blocks(tuple(tensor.shape)) if tensor.numel())


def _block_holds_nan(values: torch.Tensor) -> bool:
    if values.is_complex():
        values = torch.view_as_real(values)
    if values.dtype.itemsize == 1:  # torch does not add these up
        values = values.to(torch.float32)
    # float16 overflows where its values are merely many.
    total = values.sum(dtype=torch.float32) if values.dtype == torch.float16 else values.sum()
    return not math.isfinite(float(total)) and bool(torch.isnan(values).any())
