"""The smallest tolerance that would have passed: of one comparison, or of several at once.

Exact: compared again with it, the tensors pass, and with the next smaller figure they do not (ULPs: below 2^53).
This module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .tolerance import Bitwise, Close, Cosine, Psnr, Tolerance, Ulp

if TYPE_CHECKING:
    from .comparison import Comparison

NO_TOLERANCE = "no tolerance would pass this"


def smallest_for_all(comparisons: Iterable[Comparison]) -> Tolerance | None:
    """The tightest tolerance of the comparisons' own kind under which all pass; None if no tolerance would do.

    Of `close` the absolute part is raised and the relative kept. For `bitwise` it is the ULPs apart, up to 1024, else
    an absolute limit. No tolerance makes a pass of another shape, dtype or device, nor of a NaN or Inf on one side.
    One that passed needs no other than its own; of no comparison there is none. Exact where all were compared with
    one tolerance; where relative limits differ, the largest is taken.
    """
    known = list(comparisons)
    if any(not comparison.passed and comparison.problem != "values" for comparison in known):
        return None
    failed = [comparison.would_pass for comparison in known if not comparison.passed]
    if not failed:
        return known[0].tolerance if known else None
    if not all(failed):
        return None
    if all(isinstance(enough[0], Ulp) for enough in failed):
        return _loosest([enough[0] for enough in failed])
    # In absolute terms where ULPs do not serve all.
    return _loosest([next((one for one in enough if isinstance(one, Close)), enough[0]) for enough in failed])


def short(tolerance: Tolerance) -> Tolerance:
    """Figures short enough to type, never tighter: what passes under `tolerance` passes under this."""
    if isinstance(tolerance, Close):
        return Close(_up(tolerance.rtol or 0.0), _up(tolerance.atol or 0.0))
    if isinstance(tolerance, Psnr):
        return Psnr(_below(round(math.floor(tolerance.db * 100) / 100, 2), tolerance.db), tolerance.peak)
    if isinstance(tolerance, Cosine):
        return Cosine(_below(round(1.0 - _up(1.0 - tolerance.minimum), 12), tolerance.minimum))
    return tolerance


def _loosest(tolerances: list[Tolerance]) -> Tolerance | None:
    first = tolerances[0]
    if len({type(tolerance) for tolerance in tolerances}) > 1:
        return None
    if isinstance(first, Ulp):
        return Ulp(max(one.n for one in tolerances if isinstance(one, Ulp)))
    if isinstance(first, Close):
        limits = [one for one in tolerances if isinstance(one, Close)]
        return Close(max(one.rtol or 0.0 for one in limits), max(one.atol or 0.0 for one in limits))
    if isinstance(first, Psnr):
        return Psnr(min(one.db for one in tolerances if isinstance(one, Psnr)), first.peak)
    if isinstance(first, Cosine):
        return Cosine(min(one.minimum for one in tolerances if isinstance(one, Cosine)))
    return first if isinstance(first, Bitwise) else None


def _up(value: float) -> float:
    """Rounded up to three significant digits."""
    if value == 0.0:
        return 0.0
    rounded = float(f"{value:.3g}")
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    higher = rounded if rounded >= value else float(f"{rounded + step:.3g}")
    return higher if value <= higher < math.inf else value


def _below(rounded: float, value: float) -> float:
    return rounded if rounded <= value else value
