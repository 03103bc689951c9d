"""What the values of one tensor are like, gathered block by block: extremes, mean, spread, NaN and Inf."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .dtypes import kind_of
from .widening import Widening, working_dtype

FP16_LARGEST = 65504.0

# Squares of float32 below this sum have lost digits.
_TINY = 1e-30


@dataclass
class ValueStatistics:
    """Figures of the values seen so far; all but the counts are over finite values. Blocks are added in float64."""

    numel: int = 0
    nan: int = 0
    positive_inf: int = 0
    negative_inf: int = 0
    zeros: int = 0
    smallest: float = math.inf
    largest: float = -math.inf
    mean: float = 0.0
    square_deviation: float = 0.0
    """Sum of the squared distances from the mean."""
    bf16_exact: bool = True
    beyond_fp16: int = 0

    @property
    def inf(self) -> int:
        """Infinities of either sign."""
        return self.positive_inf + self.negative_inf

    @property
    def finite(self) -> int:
        """Values that are neither NaN nor Inf."""
        return self.numel - self.nan - self.inf

    @property
    def std(self) -> float:
        """Standard deviation of the finite values, of the whole and not of a sample of it."""
        return math.sqrt(self.square_deviation / self.finite) if self.finite else 0.0

    @property
    def constant(self) -> bool:
        """Whether there are two values at least, and all are equal (equal infinities are)."""
        if self.numel < 2 or self.nan:
            return False
        if self.inf:
            return self.numel in (self.positive_inf, self.negative_inf)
        return self.smallest == self.largest

    def add(self, other: ValueStatistics) -> None:
        """Take in the figures of other values."""
        ours, theirs = self.finite, other.finite
        if theirs and not ours:
            self.mean, self.square_deviation = other.mean, other.square_deviation
        elif theirs:
            step = other.mean - self.mean
            self.mean += step * theirs / (ours + theirs)
            self.square_deviation += other.square_deviation + step * step * ours * theirs / (ours + theirs)
        self.numel += other.numel
        self.nan += other.nan
        self.positive_inf += other.positive_inf
        self.negative_inf += other.negative_inf
        self.zeros += other.zeros
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        self.bf16_exact = self.bf16_exact and other.bf16_exact
        self.beyond_fp16 += other.beyond_fp16


class ValueScan:
    """Gives the figures of flat blocks of one dtype, of at most `size` elements; buffers are used again.

    A complex number counts as two values. Of dtypes that are packed (4-bit floats) only whether they are all zero
    bits is seen.
    """

    def __init__(self, dtype: torch.dtype, size: int) -> None:
        self._parts = kind_of(dtype) == "complex"
        real = dtype.to_real() if self._parts else torch.uint8 if kind_of(dtype) == "opaque" else dtype
        self._opaque = kind_of(dtype) == "opaque"
        count = 2 * size if self._parts else size
        work = working_dtype(real)
        self._widening = Widening(real, work, count)
        self._scratch = torch.empty(count, dtype=work)
        self._bits = torch.empty(count if real == torch.float32 else 0, dtype=torch.int32)
        self._asks_bf16 = real in (torch.float32, torch.float64)

    def scan(self, block: torch.Tensor, *, ask_bf16: bool = True) -> ValueStatistics:
        """The figures of one block; `ask_bf16` off where another block has settled it."""
        if self._parts:
            block = torch.view_as_real(block).view(-1)
        elif self._opaque:
            block = block.view(torch.uint8)
        if not block.numel():
            return ValueStatistics()
        values = self._widening.load(block)
        found = self._fast(values)
        if found is None:
            found = _careful(values)
        if self._asks_bf16:
            found.bf16_exact = ask_bf16 and self._is_bf16(values)
        return found

    def _fast(self, values: torch.Tensor) -> ValueStatistics | None:
        """The figures of a block whose arithmetic is safe in its working dtype; None where it is not."""
        n = values.numel()
        origin = float(values[0])
        if not math.isfinite(origin):
            return None
        scratch = self._scratch[:n]
        # Distances from a value of the block, not from zero: no digits cancel, and a constant block has none.
        shifted = torch.sub(values, origin, out=scratch)
        square = float(torch.dot(shifted, shifted))
        # A NaN or Inf anywhere makes it non-finite, so no pass is spent on looking for them.
        if not math.isfinite(square):
            return None
        total = float(shifted.sum())
        smallest, largest = float(values.amin()), float(values.amax())
        if square < _TINY and smallest != largest:
            return None
        zeros = 0
        if smallest <= 0.0 <= largest:
            zeros = n - int(torch.ne(values, 0.0, out=scratch).sum())
        beyond = 0
        if max(-smallest, largest) > FP16_LARGEST:
            beyond = _beyond_fp16(values)
        return ValueStatistics(
            numel=n,
            zeros=zeros,
            smallest=smallest,
            largest=largest,
            mean=origin + total / n,
            square_deviation=max(0.0, square - total * total / n),
            beyond_fp16=beyond,
        )

    def _is_bf16(self, values: torch.Tensor) -> bool:
        """Whether a cast to bfloat16 changes no value; NaN stays NaN."""
        if values.dtype == torch.float32:
            low = torch.bitwise_and(values.view(torch.int32), 0xFFFF, out=self._bits[: values.numel()])
            if not int(low.amax()):
                return True
            if not bool(values.isnan().any()):
                return False
        same = values.to(torch.bfloat16).to(values.dtype) == values
        return bool((same | values.isnan()).all())


def _careful(values: torch.Tensor) -> ValueStatistics:
    """The figures of a block with NaN or Inf, or of magnitudes whose squares float32 does not hold."""
    finite = values.isfinite()
    found = ValueStatistics(
        numel=values.numel(),
        nan=int(values.isnan().sum()),
        positive_inf=int((values == math.inf).sum()),
        negative_inf=int((values == -math.inf).sum()),
    )
    rest = values[finite].to(torch.float64)
    if rest.numel():
        found.mean = float(rest[0]) + float((rest - rest[0]).mean())
        shifted = rest - found.mean
        found.square_deviation = float(torch.dot(shifted, shifted))
        found.zeros = int((rest == 0.0).sum())
        found.smallest, found.largest = float(rest.amin()), float(rest.amax())
        found.beyond_fp16 = _beyond_fp16(rest)
    return found


def _beyond_fp16(values: torch.Tensor) -> int:
    return int((values.abs() > FP16_LARGEST).sum())
