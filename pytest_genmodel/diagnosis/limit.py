"""A number against its limit, as evidence of a finding: what was measured, what was allowed, what would pass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError

if TYPE_CHECKING:
    from pytest_genmodel.tensors.comparison import Comparison

KEY = "limit"
"""The key of a finding's evidence under which it stands."""
PARAMETER = "tolerance"
"""What a claim's parameter is called that takes a tolerance."""
FIXED = "the limit is the claim's own"
ESTIMATED = "not known without the reference's weights (--genmodel-ref)"
ESTIMATE = "relative difference, estimated"
_NUMBERS = ("relative_difference", "error", "levels")
"""What a number is called that stands beside a limit."""


def against(number: float, limit: float, unit: str, *, least: bool = False) -> dict[str, Any]:
    """Evidence of a number that is beyond the limit of a claim, which no parameter changes.

    Args:
        number: what was measured.
        limit: the largest number that passes.
        unit: what the number is: `relative difference`, `dB`, `of the largest value`.
        least: the limit is the smallest number that passes.
    """
    return {
        KEY: {
            "number": float(number),
            "limit": float(limit),
            "unit": unit,
            "least": least,
            "tolerance": None,
            "smallest_tolerance": None,
            "parameter": None,
        }
    }


def beyond_tolerance(
    comparisons: Comparison | Sequence[Comparison], *, parameter: str | None = None
) -> dict[str, Any]:
    """Evidence of tensors that are further apart than a tolerance: the first one's number, and what all would pass.

    Args:
        comparisons: those that failed, of one claim; the first is the one that the finding tells of.
        parameter: the parameter of the claim that takes the tolerance; None where it takes none.
    """
    from pytest_genmodel.tensors.comparison import Comparison
    from pytest_genmodel.tensors.smallest import smallest_for_all

    several = [comparisons] if isinstance(comparisons, Comparison) else list(comparisons)
    smallest = smallest_for_all(several)
    number, limit, unit, least = _measured(several[0])
    return {
        KEY: {
            "number": number,
            "limit": limit,
            "unit": unit,
            "least": least,
            "tolerance": several[0].tolerance.spelled(),
            "smallest_tolerance": smallest.spelled() if smallest is not None else None,
            "parameter": parameter,
        }
    }


def rounding_to(dtype: str, *, also: Sequence[Comparison] = ()) -> dict[str, Any]:
    """Evidence of tensors that were rounded to a narrower floating dtype (`bfloat16`), `also` of others that differ.

    Rounding to nearest moves a value by at most half a step: eps/2 of it, and half the smallest subnormal near 0.
    """
    import torch

    from pytest_genmodel.tensors.smallest import smallest_for_all
    from pytest_genmodel.tensors.tolerance import Bitwise, Close

    info = torch.finfo(getattr(torch, dtype))
    step, least = float(info.eps) / 2, float(info.smallest_normal) * float(info.eps) / 2
    others = smallest_for_all(also)
    enough: Close | None = Close(step, least)
    if also:
        enough = Close(step, max(least, others.atol or 0.0)) if isinstance(others, Close) else None
    return {
        KEY: {
            "number": step,
            "limit": 0.0,
            "unit": f"of each value (rounded to {dtype})",
            "least": False,
            "tolerance": Bitwise().spelled(),
            "smallest_tolerance": enough.spelled() if enough is not None else None,
            "parameter": None,
        }
    }


def _measured(comparison: Comparison) -> tuple[float | None, float | None, str, bool]:
    """Number, limit, unit, and whether the limit is a lower one; None where tensors could not be subtracted."""
    from pytest_genmodel.tensors.tolerance import Bitwise, Close, Cosine, Psnr, Ulp

    tolerance = comparison.tolerance
    if comparison.problem not in (None, "values"):
        return None, None, {"nonfinite": "NaN or Inf"}.get(comparison.problem, comparison.problem), False
    if isinstance(tolerance, Psnr):
        return comparison.psnr, tolerance.db, "dB", True
    if isinstance(tolerance, Cosine):
        return comparison.cosine, tolerance.minimum, "cosine", True
    if isinstance(tolerance, Ulp):
        return _float(comparison.max_ulp), float(tolerance.n), "ULP", False
    if comparison.max_abs is None:  # estimated from a sketch
        return comparison.relative_difference, 0.0, ESTIMATE, False
    worst = comparison.worst
    if isinstance(tolerance, Close) and worst is not None:
        limit = (tolerance.atol or 0.0) + (tolerance.rtol or 0.0) * abs(worst.expected)
        return worst.difference, limit, "|a-b|", False
    return comparison.max_abs, 0.0 if isinstance(tolerance, Bitwise) else None, "max |a-b|", False


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def limit_in(evidence: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The number against its limit in a finding's evidence, also where both stand there by themselves."""
    limit = evidence.get(KEY)
    if isinstance(limit, Mapping):
        return limit
    name = next((name for name in _NUMBERS if name in evidence), None)
    allowed, number = _number(limit), _number(evidence.get(name or ""))
    if name is None or allowed is None or number is None:
        return None
    found: Mapping[str, Any] = against(number, allowed, name.replace("_", " "))[KEY]
    return found


def measured_text(limit: Mapping[str, Any]) -> str | None:
    """The number against the limit in words: `0.0123 |a-b|; limit 1e-05 (close(atol=1e-05))`; None without one."""
    number, allowed, unit = (
        _number(limit.get("number")),
        _number(limit.get("limit")),
        str(limit.get("unit") or ""),
    )
    tolerance = str(limit["tolerance"]) if limit.get("tolerance") else None
    if number is None:
        return f"{unit}; limit: {tolerance}" if unit and tolerance else unit or None
    said = f"{number:.4g} {unit}"
    if allowed is None:
        return f"{said}; limit: {tolerance}" if tolerance else said
    said += f"; {'at least' if limit.get('least') else 'limit'} {allowed:.4g}"
    return f"{said} ({tolerance})" if tolerance else said


def passing_text(limit: Mapping[str, Any] | None) -> str:
    """What would have passed, in words: a tolerance to be pasted, a limit, or that there is none."""
    from pytest_genmodel.tensors.smallest import NO_TOLERANCE, short
    from pytest_genmodel.tensors.tolerance import Tolerance

    if limit is None:
        return NO_TOLERANCE
    smallest = limit.get("smallest_tolerance")
    if smallest is None:
        number = _number(limit.get("number"))
        if limit.get("unit") == ESTIMATE:
            return ESTIMATED
        if limit.get("tolerance") or number is None or not math.isfinite(number):
            return NO_TOLERANCE
        return f"a limit of {number:.4g} {limit.get('unit')} ({FIXED})"
    try:
        text = short(Tolerance.parse(str(smallest))).spelled()
    except BadInputError:  # a report that somebody else has written
        return str(smallest)
    if limit.get("parameter"):
        return f"{limit['parameter']}={text}"
    return f"{text} (as a tolerance of assert_close; {FIXED})"


def _number(value: Any) -> float | None:
    """A number, which a report spells as text where JSON has no word for it."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, (int, float)) else None
