"""The smallest tolerance that would have passed: it passes, and the next smaller figure does not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_genmodel.tensors import assert_close, bitwise, close, compare, cosine, psnr, ulp
from pytest_genmodel.tensors.asserts import TensorMismatchError
from pytest_genmodel.tensors.message import would_pass
from pytest_genmodel.tensors.smallest import NO_TOLERANCE, short, smallest_for_all
from pytest_genmodel.tensors.tolerance import Close, Cosine, Psnr, Tolerance, Ulp

from .strategies import COMPLEX, EIGHT_BIT, FLOATS, INTEGERS, draw, quick

TIGHT = (
    bitwise,
    ulp(0),
    close(atol=0.0),
    close(1e-7, 1e-9),
    close(0.3, 0.0),
    psnr(200),
    psnr(300, 255),
    cosine(1.0),
)
KINDS = [*FLOATS, *EIGHT_BIT, *INTEGERS, *COMPLEX]


def tighter(tolerance: Tolerance) -> Tolerance | None:
    """The nearest tolerance that is tighter by its one figure; None where there is none."""
    if isinstance(tolerance, Ulp):
        return Ulp(tolerance.n - 1) if tolerance.n else None
    if isinstance(tolerance, Close):
        below = math.nextafter(tolerance.atol or 0.0, -math.inf)
        return replace(tolerance, atol=below) if below >= 0 else None
    if isinstance(tolerance, Psnr):
        return replace(tolerance, db=math.nextafter(tolerance.db, math.inf))
    assert isinstance(tolerance, Cosine)
    above = math.nextafter(tolerance.minimum, math.inf)
    return replace(tolerance, minimum=above) if above <= 1.0 else None


@quick
@given(
    dtype=st.sampled_from(KINDS),
    tolerance=st.sampled_from(TIGHT),
    noise=st.sampled_from([1e-9, 1e-6, 1e-3, 1.0, 40.0]),
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    seed=st.integers(0, 10**6),
)
def test_smallest_passes_and_the_next_smaller_does_not(dtype, tolerance, noise, shape, seed):
    expected = draw(tuple(shape), dtype, seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    actual = (expected.to(wide) + noise * draw(tuple(shape), torch.float64, seed + 1)).to(dtype)
    comparison = compare(actual, expected, tolerance)
    assume(not comparison.passed)
    assume(comparison.problem == "values")

    smallest = smallest_for_all([comparison])

    if smallest is None:  # no figure: PSNR of infinitely many decibels, a distance that float64 does not hold
        assert not math.isfinite(comparison.max_abs or 0.0)
        return
    assert compare(actual, expected, smallest).passed
    assert compare(actual, expected, Tolerance.parse(smallest.spelled())).passed
    assert compare(actual, expected, short(smallest)).passed
    assume(not (isinstance(smallest, Ulp) and smallest.n > 2**53))
    if (less := tighter(smallest)) is not None:
        assert not compare(actual, expected, less).passed


@pytest.mark.parametrize(
    ("actual", "expected", "tolerance"),
    [
        (torch.ones(2, 3), torch.ones(3, 2), None),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), None),
        (torch.tensor([1.0, math.nan]), torch.ones(2), psnr(3)),
        (torch.tensor([1.0, math.inf]), torch.ones(2), bitwise),
        (torch.empty(2, device="meta"), torch.ones(2), close(atol=9.0)),
        # NaN meets NaN, which only bits can say is equal; something else differs.
        (torch.tensor([2.0, math.nan]), torch.tensor([1.0, math.nan]), bitwise),
    ],
)
def test_no_tolerance_makes_a_pass_of_these(actual, expected, tolerance):
    comparison = compare(actual, expected, tolerance)

    assert not comparison.passed
    assert smallest_for_all([comparison]) is None
    assert would_pass(comparison) == NO_TOLERANCE
    assert str(comparison).endswith(NO_TOLERANCE)


def test_nan_that_may_equal_nan_is_no_obstacle():
    actual, expected = torch.tensor([2.0, math.nan]), torch.tensor([1.0, math.nan])
    enough = smallest_for_all([compare(actual, expected, bitwise, equal_nan=True)])
    assert enough is not None
    assert compare(actual, expected, enough, equal_nan=True).passed


def test_packed_values_are_only_ever_bitwise():
    one, other = (torch.tensor([byte], dtype=torch.uint8).view(torch.float4_e2m1fn_x2) for byte in (1, 2))
    assert smallest_for_all([compare(one, other)]) is None


def test_of_several_the_loosest():
    expected = torch.tensor([1.0, 2.0])
    near = compare(torch.nextafter(expected, torch.tensor(9.0)), expected, bitwise)
    far = compare(expected + 0.5, expected, bitwise)
    nan = compare(expected * math.nan, expected, bitwise)

    nearer = compare(
        torch.nextafter(expected, torch.tensor(9.0)).nextafter(torch.tensor(9.0)), expected, bitwise
    )

    assert smallest_for_all([near, near]) == ulp(1)
    assert smallest_for_all([near, nearer]) == smallest_for_all([nearer, near]) == ulp(2)
    assert smallest_for_all([compare(expected + x, expected, psnr(99)) for x in (0.5, 0.25)]) == psnr(
        compare(expected + 0.5, expected, psnr(99)).psnr
    )
    assert smallest_for_all([near, far]) == close(atol=0.5)
    assert smallest_for_all([near, far, compare(expected, expected, bitwise)]) == close(atol=0.5)
    assert smallest_for_all([near, nan]) is None
    assert smallest_for_all([compare(expected, expected, bitwise)]) == bitwise
    assert smallest_for_all([]) is None


@pytest.mark.parametrize(
    ("tolerance", "text"),
    [
        (close(0.0, 0.000312345), "close(atol=0.000313)"),
        (close(1.3e-6, 2.0), "close(rtol=1.3e-06, atol=2)"),
        (psnr(31.2789), "psnr(31.27)"),
        (psnr(-3.001, 255), "psnr(-3.01, peak=255)"),
        (cosine(0.999998765432), "cosine(0.99999876)"),
        (cosine(0.987654321), "cosine(0.9876)"),
        (cosine(-0.5), "cosine(-0.5)"),
        (ulp(3), "ulp(3)"),
        (bitwise, "bitwise"),
        (close(), "close()"),
    ],
)
def test_figures_to_type_are_short_and_never_tighter(tolerance, text):
    assert (tolerance if tolerance == close() else short(tolerance)).spelled() == text


def test_an_assert_ends_with_what_would_have_passed():
    expected = {"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.zeros(3)}
    actual = {"a": torch.full((3,), 0.25), "b": torch.full((3,), 0.5), "c": torch.zeros(3)}

    with pytest.raises(TensorMismatchError) as one:
        assert_close(actual["a"], expected["a"], bitwise)
    with pytest.raises(TensorMismatchError) as both:
        assert_close(actual, expected, bitwise)
    with pytest.raises(TensorMismatchError) as gap:
        assert_close(actual, {"a": expected["a"]}, bitwise)

    assert str(one.value).splitlines()[-1].split() == ["would", "pass", "close(atol=0.25)"]
    assert str(both.value).endswith("all of them would pass: close(atol=0.5)")
    assert str(gap.value).endswith(NO_TOLERANCE)
    assert_close(actual, expected, close(atol=0.5))
