"""Does a place pass another tolerance? From the figures that were kept; from its values only where those do not tell.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.limit import PARAMETER
from pytest_genmodel.tensors.tolerance import Bitwise, Close, Cosine, Psnr, Tolerance, Ulp, default_tolerance

if TYPE_CHECKING:
    from pytest_genmodel.runs.saved import SavedRun


def passes(place: Mapping[str, Any], tolerance: Tolerance, run: SavedRun) -> bool | None:
    """Whether the two sides of a place that differs are within `tolerance`; None where what was kept does not tell.

    Args:
        place: as `observed.record` made it.
        tolerance: the limit; `close` without figures stands for that of float32, in which samples are.
        run: where the values are, which are read (with torch) only if the figures do not decide.

    Raises:
        BadInputError: the values are damaged.
    """
    if isinstance(tolerance, Close) and tolerance.rtol is None:
        tolerance = default_tolerance("float32")
    told = _by_figures(place["figures"], tolerance)
    if told is not None:
        return told
    values = run.values(place)
    if values is None:
        return None
    from pytest_genmodel.tensors import compare

    return compare(*values, tolerance=tolerance, in_detail=False).passed


def _by_figures(figures: Mapping[str, Any], tolerance: Tolerance) -> bool | None:
    if figures.get("problem") != "values" or isinstance(tolerance, Bitwise):
        return False  # it differs, or holds NaN or Inf on one side
    if isinstance(tolerance, Ulp):
        return _at_most(figures.get("max_ulp"), tolerance.n)
    if isinstance(tolerance, Psnr):
        # The same sum as `Sums.psnr` makes: what is kept is for a peak of 1, whose logarithm is 0.
        known = _number(figures.get("psnr"))
        return None if known is None else 20.0 * math.log10(tolerance.peak) + known >= tolerance.db
    if isinstance(tolerance, Cosine):
        known = _number(figures.get("cosine"))
        return None if known is None else known >= tolerance.minimum
    if not isinstance(tolerance, Close):
        return None
    largest, relative = _number(figures.get("max_abs")), _number(figures.get("max_rel"))
    if largest is None:
        return None
    if largest <= (tolerance.atol or 0.0):
        return True
    if not tolerance.rtol:
        return False
    # Where the reference is 0 nothing is relative, so that a relative limit alone cannot say yes.
    return False if relative is not None and relative == 0.0 else None


def _at_most(value: Any, most: float) -> bool | None:
    known = _number(value)
    return None if known is None else known <= most


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def limit_of(
    place: Mapping[str, Any], places: Sequence[Mapping[str, Any]], tolerance: Tolerance
) -> dict[str, Any]:
    """A place against `tolerance`, as evidence (`diagnosis.limit`), and what all `places` would pass."""
    figures = place["figures"]
    number, limit, unit, least = _number(figures.get("max_abs")), 0.0, "max |a-b|", False
    if isinstance(tolerance, Ulp):
        number, limit, unit = _number(figures.get("max_ulp")), float(tolerance.n), "ULP"
    elif isinstance(tolerance, Psnr):
        known = _number(figures.get("psnr"))
        number = None if known is None else 20.0 * math.log10(tolerance.peak) + known
        limit, unit, least = tolerance.db, "dB", True
    elif isinstance(tolerance, Cosine):
        number, limit, unit, least = _number(figures.get("cosine")), tolerance.minimum, "cosine", True
    elif isinstance(tolerance, Close):
        limit = tolerance.atol or 0.0
    enough = _smallest([place, *places], tolerance)
    return {
        "number": number if number is not None and math.isfinite(number) else str(number),
        "limit": None if isinstance(tolerance, Close) and tolerance.rtol else limit,
        "unit": unit,
        "least": least,
        "tolerance": tolerance.spelled(),
        "smallest_tolerance": enough.spelled() if enough is not None else None,
        "parameter": PARAMETER,
    }


def _smallest(places: Sequence[Mapping[str, Any]], tolerance: Tolerance) -> Tolerance | None:
    """The smallest tolerance of this kind that every place passes; an absolute limit for `close` and `bitwise`."""
    names = {Ulp: "max_ulp", Psnr: "psnr", Cosine: "cosine"}
    name = names.get(type(tolerance), "max_abs")
    numbers = [_number(place["figures"].get(name)) for place in places]
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    if len(known) < len(numbers) or any(place["figures"].get("problem") != "values" for place in places):
        return None
    if isinstance(tolerance, Ulp):
        return Ulp(int(max(known)))
    if isinstance(tolerance, Psnr):
        return Psnr(20.0 * math.log10(tolerance.peak) + min(known), tolerance.peak)
    if isinstance(tolerance, Cosine):
        return Cosine(min(known))
    return Close(0.0, max(known))
