"""Two tensors compared block by block as they are read, of any two dtypes, without ever holding either."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from .blocks import pairs, same_memory
from .comparison import Comparison, Problem
from .dtypes import dtype_name, kind_of
from .examination import Tally
from .figures import Workspace, fast_figures
from .inspection import inspect
from .sums import Sums
from .tolerance import Close, Tolerance, bitwise
from .widening import Widening, working_dtype

_ANYTHING_GOES = Close(0.0, math.inf)


@dataclass
class PairFigures:
    """What the blocks of a pair come to; added up in their order, the same in any number of threads."""

    sums: Sums = field(default_factory=Sums)
    odd: int = 0
    """Places where one side is NaN or Inf and the other is something else."""
    tallies: tuple[Tally, Tally] = field(default_factory=lambda: (Tally(), Tally()))

    @property
    def differing(self) -> int:
        """Elements that differ; -0.0 equals 0.0, NaN equals NaN."""
        return self.sums.differing + self.odd

    @property
    def actual_is_finite(self) -> bool:
        """Whether no NaN or Inf has been seen on the actual side."""
        return not (self.tallies[0].nan or self.tallies[0].inf)

    def add(self, other: PairFigures) -> None:
        """Take in the figures of the blocks that follow."""
        self.sums.add(other.sums)
        self.odd += other.odd
        for mine, more in zip(self.tallies, other.tallies, strict=True):
            mine.follow(more)

    def comparison(self, shape: tuple[int, ...], dtypes: tuple[torch.dtype, torch.dtype]) -> Comparison:
        """The figures as the comparison of two tensors that differ."""
        sums = self.sums
        problem: Problem = "nonfinite" if self.odd else "values"
        return Comparison(
            False,
            bitwise,
            problem,
            (shape, shape),
            (dtype_name(dtypes[0]), dtype_name(dtypes[1])),
            ("cpu", "cpu"),
            numel=math.prod(shape),
            differing=self.differing,
            mismatched=self.differing,
            max_abs=sums.max_abs,
            max_rel=sums.max_rel,
            rms=sums.rms,
            psnr=sums.psnr(1.0),
            cosine=sums.cosine,
            relative_norm_change=sums.relative_norm_change,
            relative_difference=sums.relative_difference,
            would_pass=self._would_pass(dtypes),
            nonfinite=(self.tallies[0].nonfinite(shape), self.tallies[1].nonfinite(shape)),
        )

    def _would_pass(self, dtypes: tuple[torch.dtype, torch.dtype]) -> tuple[Tolerance, ...]:
        """An absolute limit, a hair wider than what was seen: the fast figures are rounded in float32."""
        only_bits = any(kind_of(dtype) == "opaque" for dtype in dtypes)
        if only_bits or self.odd or self.tallies[0].nan or not math.isfinite(self.sums.max_abs):
            return ()
        return (Close(0.0, self.sums.max_abs * (1.0 + 2.0**-22)),)


class PairScan:
    """Gives the figures of flat blocks of two dtypes, of at most `size` elements; buffers are used again."""

    def __init__(self, actual: torch.dtype, expected: torch.dtype, size: int) -> None:
        real = all(kind_of(dtype) in ("float", "int", "bool") for dtype in (actual, expected))
        # float64 rounds the largest integers: only the inspection counts those right.
        exact = not any(kind_of(dtype) == "int" and dtype.itemsize == 8 for dtype in (actual, expected))
        self._workspace = Workspace(actual, expected, size) if real and exact else None

    def scan(self, actual: torch.Tensor, expected: torch.Tensor, offset: int) -> PairFigures:
        """The figures of one block, whose first element is the `offset`th of its tensor."""
        if not actual.numel():
            return PairFigures()
        if self._workspace is not None:
            sums = fast_figures(actual, expected, self._workspace)
            if sums is not None:
                return PairFigures(sums)
        seen = inspect(actual, expected, _ANYTHING_GOES, equal_nan=True)
        found = PairFigures(seen.sums)
        if seen.odd is not None:
            found.odd = int(seen.odd.sum())
            found.tallies[0].add(seen.actual, offset)
            found.tallies[1].add(seen.expected, offset)
        return found


@dataclass
class CastVerdict:
    """How the blocks of two dtypes seen so far are related."""

    equal: bool = True
    """The same numbers on both sides: the cast between them lost nothing."""
    rounded: bool = True
    """Actual is expected cast to the dtype of actual."""
    finite: bool = True
    """No NaN and no Inf on the actual side."""

    @property
    def open(self) -> bool:
        """Whether more blocks can tell anything but NaN and Inf."""
        return self.equal or self.rounded

    def add(self, other: CastVerdict) -> None:
        """Take in the verdict on more blocks."""
        self.equal, self.rounded = self.equal and other.equal, self.rounded and other.rounded
        self.finite = self.finite and other.finite


class CastScan:
    """Says of flat blocks of two dtypes whether one side is a cast of the other, at a tenth of what figures cost."""

    def __init__(self, actual: torch.dtype, expected: torch.dtype, size: int) -> None:
        self._real = all(kind_of(dtype) in ("float", "int", "bool") for dtype in (actual, expected))
        if self._real:
            work = working_dtype(actual, expected)
            self._actual, self._expected = (Widening(dtype, work, size) for dtype in (actual, expected))
            self._cast = torch.empty(size, dtype=actual)

    def scan(self, actual: torch.Tensor, expected: torch.Tensor, so_far: CastVerdict) -> CastVerdict:
        """The verdict on one block; what `so_far` rules out is not looked at again."""
        if not self._real:
            return CastVerdict(_same_numbers(actual, expected), rounded=False)
        x = self._actual.load(actual)
        found = CastVerdict(so_far.equal, so_far.rounded, _is_finite(x))
        if found.equal:
            y = self._expected.load(expected)
            found.equal = same_memory(x, y) or _same_numbers(actual, expected)
        if found.rounded and not found.equal:
            cast = self._cast[: actual.numel()].copy_(expected)
            found.rounded = same_memory(cast, actual) or _same_numbers(cast, actual)
        return found


def same_numbers(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers, whatever their dtypes; NaN equals NaN."""
    return all(_same_numbers(*pair) for pair in pairs(actual, expected))


def _same_numbers(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    if not actual.numel():
        return True
    seen = inspect(actual, expected, _ANYTHING_GOES, equal_nan=True)
    return not seen.sums.differing and (seen.odd is None or not bool(seen.odd.any()))


def _is_finite(values: torch.Tensor) -> bool:
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())
