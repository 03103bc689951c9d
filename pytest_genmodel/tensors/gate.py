"""The fast yes: one pass in the arithmetic of the dtype that settles what clearly passes, with its figures.

About 1 ns an element on one thread, and no temporary beyond a few blocks. What fails, or comes so near to a limit
that rounding could decide, is left to the examination, which works in float64.
"""

from __future__ import annotations

import math

import torch

from .blocks import BLOCK, pairs, same_memory
from .dtypes import kind_of
from .inspection import inspect
from .sums import Sums
from .tolerance import Close, Cosine, Psnr, Tolerance

# Below, float32 squares lose digits or vanish; above, a relative difference needs the zeros masked out.
_TINY, _LARGE_RATIO = 1e-30, 1e6
# Three float32 roundings (3 * 2^-24) cannot cross this margin.
_MARGIN = 1.0 - 2.0**-20
_PSNR_MARGIN, _COSINE_MARGIN = 1e-3, 1e-6


def gate(
    actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance, *, equal_nan: bool
) -> Sums | None:
    """The figures of a pair that certainly passes; None if it fails or cannot be settled here.

    For tensors of one shape and one floating dtype, under close, psnr or cosine.
    """
    floating = actual.dtype == expected.dtype and kind_of(actual.dtype) == "float"
    if not floating or not isinstance(tolerance, (Close, Psnr, Cosine)):
        return None
    sums = Sums()
    workspace = _Workspace(actual.dtype, min(BLOCK, actual.numel()))
    for first, second in pairs(actual, expected):
        part = _settle(first, second, tolerance, workspace)
        if part is None:
            careful = inspect(first, second, tolerance, equal_nan=equal_nan)
            elementwise = isinstance(tolerance, Close)
            if careful.bad.any() if elementwise else careful.odd is not None and careful.odd.any():
                return None
            part = careful.sums
        sums.add(part)
    if isinstance(tolerance, Psnr) and sums.psnr(tolerance.peak) < tolerance.db + _PSNR_MARGIN:
        return None
    if isinstance(tolerance, Cosine) and sums.cosine < tolerance.minimum + _COSINE_MARGIN:
        return None
    return sums


class _Workspace:
    """Reused buffers of one block: float64 for float64, float32 for everything narrower."""

    def __init__(self, dtype: torch.dtype, size: int) -> None:
        work = torch.float64 if dtype == torch.float64 else torch.float32
        self.difference, self.size, self.scratch = (torch.empty(size, dtype=work) for _ in range(3))
        self.loads = None if dtype == work else (torch.empty(size, dtype=work), torch.empty(size, dtype=work))

    def load(self, side: int, block: torch.Tensor) -> torch.Tensor:
        """The block in the arithmetic of the workspace, without a copy where it is in it already."""
        if self.loads is None:
            return block
        return self.loads[side][: block.numel()].copy_(block)


def _settle(
    actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance, workspace: _Workspace
) -> Sums | None:
    n = actual.numel()
    y = workspace.load(1, expected)
    square_expected = float(torch.dot(y, y))
    # A NaN or Inf anywhere makes a dot product non-finite, so no pass is spent on looking for them.
    if not _TINY < square_expected < math.inf:
        return None
    if same_memory(actual, expected):
        return Sums(numel=n, square_expected=square_expected)
    x = workspace.load(0, actual)
    difference = torch.sub(x, y, out=workspace.difference[:n])
    square_difference = float(torch.dot(difference, difference))
    if not _TINY < square_difference < math.inf:
        return None
    cross = float(torch.dot(difference, y))
    differing = int(torch.count_nonzero(difference))
    distance = difference.abs_()
    size = torch.abs(y, out=workspace.size[:n])
    scratch = workspace.scratch[:n]
    if isinstance(tolerance, Close):
        assert tolerance.rtol is not None
        assert tolerance.atol is not None
        left = torch.sub(distance, size, alpha=tolerance.rtol * _MARGIN, out=scratch)
        if not float(left.amax()) <= tolerance.atol * _MARGIN:
            return None
    max_rel = float(torch.div(distance, size.clamp_min_(_TINY), out=scratch).amax())
    if max_rel > _LARGE_RATIO:
        return None
    return Sums(
        numel=n,
        differing=differing,
        max_abs=float(distance.amax()),
        max_rel=max_rel,
        square_difference=square_difference,
        cross=cross,
        square_expected=square_expected,
    )
