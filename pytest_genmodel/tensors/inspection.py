"""One block under the lens: every element judged, in float64, with NaN and Inf sorted out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .counting import count_nonzero
from .dtypes import as_bits, as_wide, epsilon, kind_of, largest_ulp_distance, ulp_distance
from .sums import Sums
from .tolerance import Bitwise, Close, Tolerance, Ulp


@dataclass
class Inspection:
    """What a block shows. The tensors have the shape of the block; distances and scores are float64."""

    actual: torch.Tensor
    expected: torch.Tensor
    distance: torch.Tensor
    """|actual - expected|; infinite where only one side is NaN or Inf, 0 where both agree on it."""
    bad: torch.Tensor
    """Beyond the tolerance (for psnr and cosine, which judge the whole: different at all)."""
    score: torch.Tensor
    """What the tolerance limits: the absolute difference left after rtol, the ULPs, or the distance."""
    odd: torch.Tensor | None
    """Where NaN or Inf is not matched; None if there is no NaN or Inf in the block at all."""
    sums: Sums
    max_ulp: int | None
    """Over the pairs of finite values; None if it was not asked for."""
    steepest: float
    """No |actual - expected| / |expected| is larger, those with an expected 0 included."""


def inspect(
    actual: torch.Tensor,
    expected: torch.Tensor,
    tolerance: Tolerance,
    *,
    equal_nan: bool,
    count_steps: bool = False,
) -> Inspection:
    """Judge a block, element by element. Reads dense CPU tensors of one shape; dtypes may differ."""
    x, y = as_wide(actual), as_wide(expected)
    if x.dtype != y.dtype:  # a real number is a complex one
        x, y = x.to(torch.complex128), y.to(torch.complex128)
    difference = x - y
    square_difference, cross = dot(difference, difference), dot(difference, y)
    odd = finite = None
    if math.isfinite(square_difference):
        distance = difference.abs() if difference.is_complex() else difference.abs_()
        known = y
        if kind_of(actual.dtype) == "int" and actual.dtype == expected.dtype:
            # float64 rounds integers beyond 2^53: different stays different.
            distance.clamp_min_((as_bits(actual) != as_bits(expected)).to(torch.float64))
    else:
        finite = torch.isfinite(x) & torch.isfinite(y)
        matched = x == y  # infinities of one sign
        if equal_nan or isinstance(tolerance, Bitwise):
            matched |= torch.isnan(x) & torch.isnan(y)
        odd = ~(finite | matched)
        difference, known = difference.masked_fill(~finite, 0.0), y.masked_fill(~finite, 0.0)
        square_difference, cross = dot(difference, difference), dot(difference, known)
        distance = difference.abs().masked_fill_(odd, math.inf)
    size = known.abs()
    steps = _steps(actual, expected, distance) if isinstance(tolerance, Ulp) else None
    bad, score = _judge(actual, expected, x, y, tolerance, distance, size, steps)
    if odd is not None:
        bad |= odd
    max_ulp = _max_ulp(actual, expected, distance, steps, odd) if count_steps else None
    apart = distance if odd is None else distance.masked_fill(odd, 0.0)
    relative = torch.div(apart, size, out=size)  # nobody needs the sizes after this
    steepest = max_rel = float(relative.amax())
    if not math.isfinite(max_rel):  # relative to zero there is no figure
        steepest, max_rel = math.inf, float(relative.masked_fill_(known == 0.0, 0.0).amax())
    sums = Sums(
        numel=y.numel() if finite is None else int(finite.sum()),
        differing=count_nonzero(apart.view(-1), relative.view(-1)),
        max_abs=float(apart.amax()),
        max_rel=max_rel,
        square_difference=square_difference,
        cross=cross,
        square_expected=dot(known, known),
    )
    return Inspection(x, y, distance, bad, score, odd, sums, max_ulp, steepest)


def _judge(
    actual: torch.Tensor,
    expected: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    tolerance: Tolerance,
    distance: torch.Tensor,
    size: torch.Tensor,
    steps: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(tolerance, Close):
        assert tolerance.rtol is not None
        assert tolerance.atol is not None
        score = torch.sub(distance, size, alpha=tolerance.rtol)
        return score > tolerance.atol, score
    if isinstance(tolerance, Ulp):
        assert steps is not None
        return steps > float(min(tolerance.n, 2**64)), steps  # no two values are 2^64 apart
    if isinstance(tolerance, Bitwise):
        return _bits_differ(actual, expected, x, y), distance
    return distance > 0.0, distance


def _bits_differ(
    actual: torch.Tensor, expected: torch.Tensor, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    if actual.dtype == expected.dtype:
        differ = as_bits(actual) != as_bits(expected)
        return differ.any(-1) if differ.dim() > x.dim() else differ  # real and imaginary part
    # Two dtypes share no bits: the widened values must be the same, and widening exact.
    same = (x == y) | (torch.isnan(x) & torch.isnan(y))
    if not (x.is_complex() or y.is_complex()):
        same &= torch.signbit(x) == torch.signbit(y)
    for side, wide in ((actual, x), (expected, y)):
        if side.dtype.itemsize == 8 and kind_of(side.dtype) == "int":
            same &= wide.abs() < 2.0**53
    return ~same


def _steps(actual: torch.Tensor, expected: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """ULPs apart, in the coarser of two floating dtypes; plain distance where there is no floating point.

    Where only one side is complex, it is that side's dtype: in the other there is no imaginary part.
    """
    dtypes = (actual.dtype, expected.dtype)
    coarse = max([dtype for dtype in dtypes if dtype.is_complex] or dtypes, key=epsilon)
    if kind_of(coarse) == "complex":
        first, second = (torch.view_as_real(side.to(coarse)) for side in (actual, expected))
        return ulp_distance(first, second).amax(-1)
    if kind_of(coarse) == "float":
        return ulp_distance(actual.to(coarse), expected.to(coarse))
    return distance


def _max_ulp(
    actual: torch.Tensor,
    expected: torch.Tensor,
    distance: torch.Tensor,
    steps: torch.Tensor | None,
    odd: torch.Tensor | None,
) -> int | None:
    same_float = actual.dtype == expected.dtype and kind_of(actual.dtype) == "float"
    if same_float and steps is None and odd is None:
        return largest_ulp_distance(actual, expected)
    steps = _steps(actual, expected, distance) if steps is None else steps
    comparable = steps if odd is None else steps[torch.isfinite(distance)]
    return int(comparable.amax()) if comparable.numel() else None


def dot(first: torch.Tensor, second: torch.Tensor) -> float:
    """The inner product of two tensors of one shape, of their real and imaginary parts alike."""
    if first.is_complex():
        first, second = torch.view_as_real(first), torch.view_as_real(second)
    return float(torch.dot(first.reshape(-1), second.reshape(-1)))
