"""The fast yes: one pass in the arithmetic of the dtype that settles what clearly passes, with its figures.

About 1 ns an element on one thread, and no temporary beyond a few blocks. What fails, or comes so near to a limit
that rounding could decide, is left to the examination, which works in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch

from .blocks import BLOCK, Block, flat, runs, threads_for
from .dtypes import kind_of
from .figures import Workspace, fast_figures
from .inspection import inspect
from .sums import Sums
from .threads import PerThread, in_threads
from .tolerance import Close, Cosine, Psnr, Tolerance

_PSNR_MARGIN, _COSINE_MARGIN = 1e-3, 1e-6
# Checkpoints have hundreds of biases, tests thousands of scalars: for those, making buffers would take longest.
SMALL = 2**14
_workspaces: PerThread[dict[torch.dtype, Workspace]] = PerThread(dict)


def gate(
    actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance, *, equal_nan: bool
) -> Sums | None:
    """The figures of a pair that certainly passes; None if it fails or cannot be settled here.

    For tensors of one shape and one floating dtype whose bits are known to differ, under close, psnr or cosine.
    """
    floating = actual.dtype == expected.dtype and kind_of(actual.dtype) == "float"
    if not floating or not isinstance(tolerance, (Close, Psnr, Cosine)):
        return None
    if actual.numel() <= SMALL and actual.is_contiguous() and expected.is_contiguous():
        sums = _settle_small(actual, expected, tolerance)
        if sums is not None:
            return sums
    sums, settling = Sums(), _Settling(*flat(actual, expected), tolerance, equal_nan)
    work = settling.runs()
    first = settling.settle(next(work))  # what fails, fails here most of the time: no thread is started
    rest = in_threads(settling.settle, work, threads_for(actual)) if first is not None else iter(())
    for part in chain([first], rest):
        if part is None:
            return None
        sums.add(part)
    return sums if _holds(sums, tolerance) else None


def _holds(sums: Sums, tolerance: Tolerance) -> bool:
    """Whether the whole keeps to a limit on the whole."""
    if isinstance(tolerance, Psnr):
        return sums.psnr(tolerance.peak) >= tolerance.db + _PSNR_MARGIN
    if isinstance(tolerance, Cosine):
        return sums.cosine >= tolerance.minimum + _COSINE_MARGIN
    return True


def _settle_small(actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> Sums | None:
    """The figures of a small pair that certainly passes; None for any other."""
    if actual.device.type != "cpu" or expected.device.type != "cpu":
        return None
    kept = _workspaces.get()
    if actual.dtype not in kept:
        kept[actual.dtype] = Workspace(actual.dtype, actual.dtype, SMALL)
    within = tolerance if isinstance(tolerance, Close) else None
    if actual.dim() != 1:
        actual, expected = actual.view(-1), expected.view(-1)
    sums = fast_figures(actual, expected, kept[actual.dtype], within, known_to_differ=True)
    return sums if sums is not None and _holds(sums, tolerance) else None


class _Settling:
    """Settles runs of blocks, in any number of threads."""

    def __init__(
        self, actual: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance, equal_nan: bool
    ) -> None:
        self._actual, self._expected = actual, expected
        self._tolerance, self._equal_nan = tolerance, equal_nan
        self._within = tolerance if isinstance(tolerance, Close) else None
        size = min(BLOCK, actual.numel())
        self._workspaces = PerThread(lambda: Workspace(actual.dtype, expected.dtype, size))

    def runs(self) -> Iterator[list[Block]]:
        """All the work there is."""
        return runs(tuple(self._actual.shape))

    def settle(self, run: list[Block]) -> Sums | None:
        """The figures of a run; None if a block of it fails."""
        sums, workspace = Sums(), self._workspaces.get()
        for block in run:
            first, second = block.of(self._actual).view(-1), block.of(self._expected).view(-1)
            part = fast_figures(first, second, workspace, self._within)
            if part is None:
                careful = inspect(first, second, self._tolerance, equal_nan=self._equal_nan)
                if careful.bad.any() if self._within else careful.odd is not None and careful.odd.any():
                    return None
                part = careful.sums
            sums.add(part)
        return sums
