"""The slow look at a pair that did not clearly pass: counts, places, and what would have been enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from .blocks import Block, blocks
from .dtypes import kind_of
from .inspection import Inspection, inspect
from .sums import Sums
from .tolerance import Bitwise, Close, Tolerance

# float64 working copies of this many elements stay in the cache.
_BLOCK = 2**16
# An axis with more places than this is not broken down: nobody reads it, and a report must stay small.
MODERATE_AXIS = 4096


@dataclass
class Tally:
    """NaN and Inf of one side: how many, and the flat place of the first of each."""

    nan: int = 0
    inf: int = 0
    first_nan: int | None = None
    first_inf: int | None = None

    def add(self, values: torch.Tensor, offset: int) -> None:
        """Count a block that holds at least one of them."""
        nan, inf = torch.isnan(values).view(-1), torch.isinf(values).view(-1)
        if self.first_nan is None and bool(nan.any()):
            self.first_nan = offset + int(nan.nonzero()[0])
        if self.first_inf is None and bool(inf.any()):
            self.first_inf = offset + int(inf.nonzero()[0])
        self.nan += int(nan.sum())
        self.inf += int(inf.sum())


@dataclass
class AxisCount:
    """Per place along one axis: how many elements are beyond the tolerance, and the largest distance."""

    axis: int
    mismatched: torch.Tensor
    max_abs: torch.Tensor

    @staticmethod
    def along(axis: int, size: int) -> AxisCount:
        """An empty count."""
        return AxisCount(axis, torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.float64))

    def add(self, block: Block, bad: torch.Tensor, distance: torch.Tensor) -> None:
        """Take in one block, with the masks in the shape of the block."""
        fixed = max(0, len(block.index) - 1)  # leading axes on which the block is a single place
        if self.axis < fixed:
            place = block.index[self.axis]
            self.mismatched[place] += bad.sum()
            self.max_abs[place] = torch.maximum(self.max_abs[place], distance.amax())
            return
        others = [axis for axis in range(bad.dim()) if axis != self.axis - fixed]
        place = block.index[fixed] if block.index and self.axis == fixed else slice(None)
        self.mismatched[place] += bad.sum(others) if others else bad.to(torch.int64)
        largest = distance.amax(others) if others else distance
        self.max_abs[place] = torch.maximum(self.max_abs[place], largest)


@dataclass
class Examination:
    """Everything one pass in float64 finds out about two tensors of one shape."""

    tolerance: Tolerance
    sums: Sums = field(default_factory=Sums)
    mismatched: int = 0
    odd: int = 0
    """Mismatches in which NaN or Inf takes part."""
    silent: int = 0
    """Mismatches, under bitwise, of equal values: zeros of either sign, NaN of other payload."""
    worst: tuple[int, complex, complex, float] | None = None
    """Flat place, both values and the distance of the worst mismatch."""
    tallies: tuple[Tally, Tally] = field(default_factory=lambda: (Tally(), Tally()))
    max_ulp: int | None = None
    needed_atol: float = 0.0
    needed_rtol: float = 0.0
    axes: list[AxisCount] = field(default_factory=list)
    _worst_score: float = -math.inf

    def add(self, block: Block, seen: Inspection) -> None:
        """Take in one block."""
        self.sums.add(seen.sums)
        if seen.steps is not None:
            comparable = seen.steps if seen.odd is None else seen.steps[torch.isfinite(seen.distance)]
            if comparable.numel():
                self.max_ulp = max(self.max_ulp or 0, int(comparable.amax()))
        if seen.odd is not None:
            self.tallies[0].add(seen.actual, block.offset)
            self.tallies[1].add(seen.expected, block.offset)
        mismatched = int(torch.count_nonzero(seen.bad))
        if mismatched:
            self.mismatched += mismatched
            self._add_mismatches(block, seen)

    def _add_mismatches(self, block: Block, seen: Inspection) -> None:
        bad, distance = seen.bad, seen.distance
        if seen.odd is not None:
            self.odd += int(seen.odd.sum())
        if isinstance(self.tolerance, Bitwise):
            self.silent += int((bad & (distance == 0.0)).sum())
        if isinstance(self.tolerance, Close):
            self._need(seen, self.tolerance)
        score = seen.score.masked_fill(~bad, -math.inf)
        if seen.odd is not None:
            score.masked_fill_(seen.odd, math.inf)
        highest = float(score.amax())
        if highest > self._worst_score:
            self._worst_score = highest
            place = int(score.view(-1).argmax())
            actual, expected = (side.reshape(-1)[place].item() for side in (seen.actual, seen.expected))
            self.worst = (block.offset + place, actual, expected, float(distance.view(-1)[place]))
        for axis in self.axes:
            axis.add(block, bad, distance)

    def _need(self, seen: Inspection, tolerance: Close) -> None:
        """What would have been enough, for the mismatches that a figure can let pass at all."""
        assert tolerance.atol is not None
        curable = seen.bad if seen.odd is None else seen.bad & ~seen.odd
        distance, size = seen.distance[curable], seen.expected[curable].abs()
        if distance.numel():
            self.needed_atol = max(self.needed_atol, float(seen.score[curable].amax()))
            # A hair more than the quotient, so that the figure itself passes after rounding.
            ratio = (distance * (1.0 + 2.0**-51) - tolerance.atol) / size
            self.needed_rtol = max(self.needed_rtol, float(ratio.amax()))


def examine(
    actual: torch.Tensor,
    expected: torch.Tensor,
    tolerance: Tolerance,
    *,
    equal_nan: bool,
    in_detail: bool,
) -> Examination:
    """Look at every element; `in_detail` adds ULPs and the breakdown along each axis of moderate size."""
    shape = tuple(actual.shape)
    found = Examination(tolerance)
    if in_detail:
        found.axes = [
            AxisCount.along(axis, size) for axis, size in enumerate(shape) if 1 < size <= MODERATE_AXIS
        ]
    steps = in_detail and actual.dtype == expected.dtype and kind_of(actual.dtype) in ("float", "complex")
    for block in blocks(shape, _BLOCK):
        seen = inspect(
            block.of(actual), block.of(expected), tolerance, equal_nan=equal_nan, count_steps=steps
        )
        found.add(block, seen)
    return found


def holds_nan(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds a NaN, at the price of one sum."""
    if kind_of(tensor.dtype) not in ("float", "complex") or tensor.numel() == 0:
        return False
    for block in blocks(tuple(tensor.shape)):
        values = block.of(tensor)
        if values.is_complex():
            values = torch.view_as_real(values)
        if values.dtype not in (torch.float32, torch.float64):
            values = values.to(torch.float32)
        if not math.isfinite(float(values.sum())) and bool(torch.isnan(values).any()):
            return True
    return False
