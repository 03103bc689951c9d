"""Two tensors compared, from the fastest possible yes to the most telling no.

comparison = compare(actual, expected, close(atol=1e-3), names=("frame", "channel", "height", "width"))
comparison.passed, comparison.max_abs, comparison.relative_norm_change
print(comparison)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_genmodel.errors import BadInputError

from .bits import Bits, look_at_bits
from .comparison import Axis, Comparison, Problem, Worst, unravel
from .dtypes import dtype_name, kind_of
from .examination import AxisCount, Examination, examine
from .gate import SMALL, gate
from .inputs import as_pair, check_names
from .likeness import explain
from .shapes import relate_shapes
from .sums import Sums
from .threads import one_thread
from .tolerance import Bitwise, Close, Cosine, Psnr, Tolerance, Ulp, default_tolerance

# Above that many ULPs a distance in ULPs tells nobody anything, and no advice is made of it.
_FEW_ULPS = 2**10


def compare(
    actual: Any,
    expected: Any,
    tolerance: Tolerance | str | None = None,
    *,
    names: Sequence[str] | None = None,
    check_dtype: bool = True,
    check_device: bool = False,
    equal_nan: bool = False,
    in_detail: bool = True,
) -> Comparison:
    """Compare two tensors, arrays, images, numbers or nested lists of numbers of any shape.

    Args:
        actual: One side: a torch tensor of any dense dtype and device, an array, an image, a number, or lists.
        expected: The other.
        tolerance: A tolerance or its text ("psnr:25"); None means the default of the dtype and device
            (`default_tolerance`), the looser of the two where the sides differ.
        names: One name per axis, such as ("frame", "channel", "height", "width"), for the places in the message.
        check_dtype: Fail if the dtypes differ. When off, values are compared: bitwise then asks for equal values.
        check_device: Fail if the devices differ. Values are always compared on the CPU.
        equal_nan: NaN equals NaN in the same place. Always so under bitwise, there with the same payload.
        in_detail: On failure, also work out ULPs, the breakdown along the axes and what the difference looks like.

    Equal infinities are equal under every tolerance. Two empty tensors of one shape pass. A shape mismatch fails,
    and so does a tensor on the meta device. Raises BadInputError for what cannot be compared (sparse, quantized,
    text), wrong names, or a tolerance that does not apply to the dtype.
    """
    first, second = as_pair(actual, expected, ("actual", "expected"))
    axis_names = check_names(names, tuple(first.shape), "actual") if names is not None else ()
    resolved = _resolve(tolerance, first, second)
    problem = _structural_problem(first, second, check_dtype, check_device)
    draft = _Draft(first, second, resolved, axis_names, problem, equal_nan)
    if problem == "meta":
        return draft.without_values(_meta_note(first, second))
    # torch gives so few elements to no second thread.
    with nullcontext() if max(first.numel(), second.numel()) <= SMALL else one_thread():
        if problem == "shape":
            return draft.without_values(relate_shapes(first, second, axis_names))
        nan_is_equal = equal_nan or isinstance(resolved, Bitwise)
        if first.numel() == 0:
            return draft.equal()
        bits = Bits.DIFFERENT
        if first.dtype == second.dtype:
            bits = look_at_bits(first, second, ask_nan=not nan_is_equal)
        if bits is Bits.SAME:
            return draft.equal()
        if bits is Bits.DIFFERENT:
            sums = gate(first, second, resolved, equal_nan=equal_nan)
            if sums is not None:
                return draft.settled(sums)
        found = examine(first, second, resolved, equal_nan=equal_nan, in_detail=in_detail)
        comparison = draft.examined(found)
        if comparison.passed or not in_detail:
            return comparison
        sums = None if found.odd else found.sums
        return replace(comparison, likeness=explain(first, second, names=axis_names, sums=sums))


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is known before the values are read; finishes as one Comparison."""

    actual: torch.Tensor
    expected: torch.Tensor
    tolerance: Tolerance
    names: tuple[str, ...]
    problem: Problem | None
    equal_nan: bool = False

    def without_values(self, note: str | None) -> Comparison:
        return self._finish(self.problem, note=note)

    def equal(self) -> Comparison:
        numel = self.actual.numel()
        return self._finish(self.problem, Sums(numel), differing=0, mismatched=0)

    def settled(self, sums: Sums) -> Comparison:
        elementwise = isinstance(self.tolerance, Close)
        return self._finish(
            self.problem, sums, differing=sums.differing, mismatched=0 if elementwise else sums.differing
        )

    def examined(self, found: Examination) -> Comparison:
        problem = self.problem
        if problem is None and found.odd:
            problem = "nonfinite"
        if problem is None and not _holds(self.tolerance, found):
            problem = "values"
        shape = tuple(self.actual.shape)
        failed = problem is not None
        return self._finish(
            problem,
            found.sums,
            differing=found.sums.differing + found.odd,
            mismatched=found.mismatched,
            max_ulp=found.max_ulp,
            worst=_worst(found, shape) if failed else None,
            nonfinite=(found.tallies[0].nonfinite(shape), found.tallies[1].nonfinite(shape)),
            would_pass=_would_pass(self.tolerance, found, self._only_bits(found)) if failed else (),
            axes=tuple(self._axis(count) for count in found.axes) if failed and found.mismatched else (),
            note=_note(self.tolerance, self.actual.dtype, found) if failed else None,
        )

    def _only_bits(self, found: Examination) -> bool:
        """Whether only bits can be compared: packed values, or NaN, which is equal to nothing but itself."""
        sides = (self.actual, self.expected)
        return any(kind_of(side.dtype) == "opaque" for side in sides) or (
            isinstance(self.tolerance, Bitwise) and not self.equal_nan and found.tallies[0].nan > 0
        )

    def _axis(self, count: AxisCount) -> Axis:
        name = self.names[count.axis] if self.names else f"axis {count.axis}"
        mismatched: list[int] = count.mismatched.tolist()
        max_abs: list[float] = count.max_abs.tolist()
        return Axis(name, len(mismatched), tuple(mismatched), tuple(max_abs))

    def _finish(self, problem: Problem | None, sums: Sums | None = None, **figures: Any) -> Comparison:
        if sums is not None:
            figures.update(
                max_abs=sums.max_abs,
                max_rel=sums.max_rel,
                rms=sums.rms,
                psnr=sums.psnr(self.tolerance.peak if isinstance(self.tolerance, Psnr) else 1.0),
                cosine=sums.cosine,
                relative_norm_change=sums.relative_norm_change,
                relative_difference=sums.relative_difference,
            )
        return Comparison(
            problem is None,
            self.tolerance,
            problem,
            (tuple(self.actual.shape), tuple(self.expected.shape)),
            (dtype_name(self.actual.dtype), dtype_name(self.expected.dtype)),
            (str(self.actual.device), str(self.expected.device)),
            self.names,
            self.actual.numel(),
            **figures,
        )


def _resolve(tolerance: Tolerance | str | None, actual: torch.Tensor, expected: torch.Tensor) -> Tolerance:
    if isinstance(tolerance, str):
        tolerance = Tolerance.parse(tolerance)
    if tolerance is None or (isinstance(tolerance, Close) and tolerance.rtol is None):
        first = default_tolerance(actual.dtype, actual.device.type)
        if actual.dtype == expected.dtype and actual.device == expected.device:
            return first
        second = default_tolerance(expected.dtype, expected.device.type)
        return _looser(first, second)
    if not isinstance(tolerance, Tolerance):
        raise BadInputError(
            f"tolerance must be a tolerance such as close(atol=1e-3) or a text, got {tolerance!r}"
        )
    for side in (actual, expected):
        if kind_of(side.dtype) == "opaque" and not isinstance(tolerance, Bitwise):
            raise BadInputError(
                f"{dtype_name(side.dtype)} can only be compared bitwise, not with {tolerance}"
            )
    return tolerance


def _looser(first: Tolerance, second: Tolerance) -> Tolerance:
    if isinstance(first, Close) and isinstance(second, Close):
        return Close(max(first.rtol or 0.0, second.rtol or 0.0), max(first.atol or 0.0, second.atol or 0.0))
    return first if isinstance(first, Close) else second


def _structural_problem(
    actual: torch.Tensor, expected: torch.Tensor, check_dtype: bool, check_device: bool
) -> Problem | None:
    if actual.shape != expected.shape:
        return "shape"
    if actual.is_meta or expected.is_meta:
        return "meta"
    if check_dtype and actual.dtype != expected.dtype:
        return "dtype"
    if check_device and actual.device != expected.device:
        return "device"
    return None


def _holds(tolerance: Tolerance, found: Examination) -> bool:
    if isinstance(tolerance, Psnr):
        return found.sums.psnr(tolerance.peak) >= tolerance.db
    if isinstance(tolerance, Cosine):
        return found.sums.cosine >= tolerance.minimum
    return found.mismatched == 0


def _would_pass(tolerance: Tolerance, found: Examination, only_bits: bool) -> tuple[Tolerance, ...]:
    sums = found.sums
    if only_bits or found.odd or not math.isfinite(sums.max_abs):
        return ()
    if isinstance(tolerance, Close) and found.mismatched:
        enough: list[Tolerance] = [Close(tolerance.rtol, found.needed_atol)]
        if math.isfinite(found.needed_rtol):
            enough.append(Close(found.needed_rtol, tolerance.atol))
        return tuple(enough)
    if isinstance(tolerance, Psnr) and math.isfinite(sums.psnr(tolerance.peak)):
        return (Psnr(sums.psnr(tolerance.peak), tolerance.peak),)
    if isinstance(tolerance, Cosine):
        return (Cosine(sums.cosine),)
    if isinstance(tolerance, Ulp) and found.max_ulp is not None:
        return (Ulp(found.max_ulp),)
    if isinstance(tolerance, Bitwise) and found.mismatched:
        steps = (Ulp(found.max_ulp),) if found.max_ulp is not None and found.max_ulp <= _FEW_ULPS else ()
        return (*steps, Close(0.0, sums.max_abs))
    return ()


def _worst(found: Examination, shape: tuple[int, ...]) -> Worst | None:
    if found.worst is None:
        return None
    place, actual, expected, difference = found.worst
    return Worst(unravel(place, shape), actual, expected, difference)


def _note(tolerance: Tolerance, dtype: torch.dtype, found: Examination) -> str | None:
    first, second = found.tallies
    if (
        found.odd
        and first.nan == second.nan
        and first.first_nan is not None
        and first.first_nan == second.first_nan
    ):
        return "NaN meets NaN: that is no match under this tolerance unless equal_nan=True"
    if found.silent:
        which = "all of them" if found.silent == found.mismatched else f"{found.silent} of them"
        return f"{which} differ only in the sign of a zero or the payload of a NaN"
    if isinstance(tolerance, Psnr) and tolerance.peak == 1.0 and dtype == torch.uint8:
        return f"the frames are bytes: psnr({tolerance.db:g}, peak=255) is probably meant"
    return None


def _meta_note(actual: torch.Tensor, expected: torch.Tensor) -> str:
    sides = [side for side, tensor in (("actual", actual), ("expected", expected)) if tensor.is_meta]
    verb = "is" if len(sides) == 1 else "are"
    return (
        f"{' and '.join(sides)} {verb} on the meta device: there are no values, because no file filled them"
    )
