"""The slow look at a pair that did not clearly pass: counts, places, and what would have been enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from .blocks import Block, runs, threads_for
from .comparison import Nonfinite, unravel
from .counting import count_true
from .dtypes import kind_of
from .inspection import Inspection, inspect
from .sums import Sums
from .threads import in_threads
from .tolerance import Bitwise, Close, Tolerance, Ulp

# Two threads at work on blocks of this size hold 12 MiB; on smaller ones they wait for each other.
_BLOCK = 2**17
_RUN = 8
# The smallest positive float64.
_SMALLEST = 5e-324
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

    def follow(self, other: Tally) -> None:
        """Count what comes after."""
        self.nan += other.nan
        self.inf += other.inf
        self.first_nan = other.first_nan if self.first_nan is None else self.first_nan
        self.first_inf = other.first_inf if self.first_inf is None else self.first_inf

    def nonfinite(self, shape: tuple[int, ...]) -> Nonfinite:
        """The counts, with places as indices into `shape`."""
        first_nan, first_inf = (
            None if place is None else unravel(place, shape) for place in (self.first_nan, self.first_inf)
        )
        return Nonfinite(self.nan, self.inf, first_nan, first_inf)


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
        if seen.max_ulp is not None:
            self.max_ulp = max(self.max_ulp or 0, seen.max_ulp)
        if seen.odd is not None:
            self.tallies[0].add(seen.actual, block.offset)
            self.tallies[1].add(seen.expected, block.offset)
        mismatched = count_true(seen.bad)
        if mismatched:
            self.mismatched += mismatched
            self._add_mismatches(block, seen, mismatched)

    def _add_mismatches(self, block: Block, seen: Inspection, mismatched: int) -> None:
        odd = 0 if seen.odd is None else count_true(seen.odd)
        self.odd += odd
        if isinstance(self.tolerance, Bitwise):
            # What differs in value differs in bits: the rest of the mismatches has equal values.
            self.silent += mismatched - seen.sums.differing - odd
        score, highest = _worst_score(seen)
        if isinstance(self.tolerance, Close):
            self._need(seen, self.tolerance, highest)
        if highest > self._worst_score:
            self._worst_score = highest
            place = int(score.view(-1).argmax())
            actual, expected = (side.reshape(-1)[place].item() for side in (seen.actual, seen.expected))
            self.worst = (block.offset + place, actual, expected, float(seen.distance.view(-1)[place]))
        for axis in self.axes:
            axis.add(block, seen.bad, seen.distance)

    def _need(self, seen: Inspection, tolerance: Close, highest: float) -> None:
        """What would have been enough, for the mismatches that a figure can let pass at all."""
        assert tolerance.atol is not None
        distance, size = seen.distance, seen.expected
        if seen.odd is not None:
            curable = seen.bad & ~seen.odd
            if not bool(curable.any()):
                return
            distance, size = distance[curable], size[curable]
            highest = float(seen.score[curable].amax())
        self.needed_atol = max(self.needed_atol, highest)
        if seen.steepest * (1.0 + 2.0**-50) <= self.needed_rtol:
            return  # an earlier block needs more
        # A hair more than the quotient, so that the figure itself passes after rounding. What keeps the limit needs
        # less than what breaks it, so nothing need be masked; no distance from a zero is 0 / 0.
        ratio = (distance * (1.0 + 2.0**-51)).sub_(tolerance.atol).div_(size.abs().clamp_min_(_SMALLEST))
        self.needed_rtol = max(self.needed_rtol, float(ratio.amax()))

    def follow(self, other: Examination) -> None:
        """Take in what comes after, examined by itself."""
        self.sums.add(other.sums)
        self.mismatched += other.mismatched
        self.odd += other.odd
        self.silent += other.silent
        if other._worst_score > self._worst_score:
            self.worst, self._worst_score = other.worst, other._worst_score
        for mine, more in zip(self.tallies, other.tallies, strict=True):
            mine.follow(more)
        if other.max_ulp is not None:
            self.max_ulp = max(self.max_ulp or 0, other.max_ulp)
        self.needed_atol = max(self.needed_atol, other.needed_atol)
        self.needed_rtol = max(self.needed_rtol, other.needed_rtol)
        for axis, more_of_it in zip(self.axes, other.axes, strict=True):
            axis.mismatched += more_of_it.mismatched
            axis.max_abs = torch.maximum(axis.max_abs, more_of_it.max_abs)


def _worst_score(seen: Inspection) -> tuple[torch.Tensor, float]:
    """Scores whose maximum is that of the worst mismatch, and that maximum."""
    if seen.odd is None:
        highest = float(seen.score.amax())
        # The highest score is a mismatch's, but where equal values have other bits.
        if highest > 0.0:
            return seen.score, highest
    score = seen.score.masked_fill(~seen.bad, -math.inf)
    if seen.odd is not None:
        score.masked_fill_(seen.odd, math.inf)
    return score, float(score.amax())


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
    axes = [axis for axis, size in enumerate(shape) if 1 < size <= MODERATE_AXIS] if in_detail else []
    of_one_float = actual.dtype == expected.dtype and kind_of(actual.dtype) in ("float", "complex")
    steps = isinstance(tolerance, Ulp) or (in_detail and of_one_float)

    def nothing_yet() -> Examination:
        return Examination(tolerance, axes=[AxisCount.along(axis, shape[axis]) for axis in axes])

    def work(run: list[Block]) -> Examination:
        found = nothing_yet()
        found.needed_rtol = whole.needed_rtol  # a lower bound, which spares most blocks the division
        for block in run:
            seen = inspect(
                block.of(actual), block.of(expected), tolerance, equal_nan=equal_nan, count_steps=steps
            )
            found.add(block, seen)
        return found

    whole = nothing_yet()
    for found in in_threads(work, runs(shape, _BLOCK, _RUN), threads_for(actual)):
        whole.follow(found)
    return whole
