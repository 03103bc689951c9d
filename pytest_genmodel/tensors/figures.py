"""The figures of a block in one pass of the arithmetic of its dtype: about 1 ns an element, no temporary.

Where that arithmetic could mislead (NaN, Inf, squares that float32 does not hold), no figures are given, and the
inspection in float64 is the one to ask.
"""

from __future__ import annotations

import math

import torch

from .blocks import same_memory
from .counting import count_nonzero
from .sums import Sums
from .tolerance import Close
from .widening import Widening, working_dtype

# Below, float32 squares lose digits or vanish.
_TINY = 1e-30
# Three float32 roundings (3 * 2^-24) cannot cross this margin.
_MARGIN = 1.0 - 2.0**-20


class Workspace:
    """Buffers, used again, for pairs of flat blocks of two real dtypes and at most `size` elements."""

    def __init__(self, actual: torch.dtype, expected: torch.dtype, size: int) -> None:
        self.work = working_dtype(actual, expected)
        self.actual, self.expected = (Widening(dtype, self.work, size) for dtype in (actual, expected))
        self._whole = tuple(torch.empty(size, dtype=self.work) for _ in range(2))
        self._parts = self._whole

    def scratch(self, count: int) -> tuple[torch.Tensor, ...]:
        """Two buffers of `count` elements; most blocks are as large as the one before."""
        if self._parts[0].numel() != count:
            self._parts = tuple(buffer[:count] for buffer in self._whole)
        return self._parts


def fast_figures(
    actual: torch.Tensor,
    expected: torch.Tensor,
    workspace: Workspace,
    within: Close | None = None,
    *,
    known_to_differ: bool = False,
) -> Sums | None:
    """The figures of two flat blocks; None where they need care, or do not clearly keep to the limits `within`."""
    n = expected.numel()
    y = workspace.expected.load(expected)
    square_expected = float(torch.dot(y, y))
    # A NaN or Inf anywhere makes a dot product non-finite, so no pass is spent on looking for them.
    if not (square_expected == 0.0 or _TINY < square_expected < math.inf):
        return None
    if square_expected == 0.0 and int(torch.count_nonzero(y)):
        return None
    if not known_to_differ and actual.dtype == expected.dtype and same_memory(actual, expected):
        return Sums(numel=n, square_expected=square_expected)
    x = workspace.actual.load(actual)
    difference, scratch = workspace.scratch(n)
    torch.sub(x, y, out=difference)
    square_difference = float(torch.dot(difference, difference))
    if not _TINY < square_difference < math.inf:
        only_signs_of_zeros = square_difference == 0.0 and not int(torch.count_nonzero(difference))
        return Sums(numel=n, square_expected=square_expected) if only_signs_of_zeros else None
    cross = float(torch.dot(difference, y))
    differing = count_nonzero(difference, scratch)
    distance = difference.abs_()
    max_abs = float(distance.amax())
    if within is not None and not _keeps(distance, y, max_abs, within, scratch):
        return None
    torch.div(distance, y, out=scratch)
    max_rel = max(float(scratch.amax()), -float(scratch.amin()))
    if not math.isfinite(max_rel):
        # Relative to zero there is no figure: make 0 / 1 of what stands there.
        zero = torch.eq(y, 0.0, out=scratch)
        max_rel = float(distance.mul_(1.0 - zero).div_(zero.add_(y).abs_()).amax())
        if not math.isfinite(max_rel):
            return None
    return Sums(n, differing, max_abs, max_rel, square_difference, cross, square_expected)


def _keeps(
    distance: torch.Tensor, expected: torch.Tensor, max_abs: float, within: Close, scratch: torch.Tensor
) -> bool:
    """Whether a block certainly keeps to the limits."""
    assert within.rtol is not None
    assert within.atol is not None
    if max_abs <= within.atol * _MARGIN:
        return True
    left = torch.abs(expected, out=scratch).mul_(-within.rtol * _MARGIN).add_(distance)
    return float(left.amax()) <= within.atol * _MARGIN
