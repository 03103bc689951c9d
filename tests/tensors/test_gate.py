from __future__ import annotations

import math

import pytest
import torch

from pytest_genmodel.tensors.gate import gate
from pytest_genmodel.tensors.tolerance import bitwise, close, cosine, psnr, ulp

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("numel", [1, 100, 2**18, 2**18 + 1])
def test_settles_what_clearly_passes(dtype, numel):
    expected = torch.randn(numel).to(dtype)
    actual = expected.clone()
    actual[-1] = 2 * float(expected[-1]) if float(expected[-1]) else 1.0
    sums = gate(actual, expected, close(rtol=2, atol=2), equal_nan=False)
    assert sums is not None
    assert (sums.numel, sums.differing) == (numel, 1)
    assert sums.max_abs == abs(float(actual[-1]) - float(expected[-1]))


def test_leaves_failures_and_other_kinds_alone():
    a, b = torch.ones(5), torch.ones(5) * 1.5
    assert gate(a, b, close(atol=0.4), equal_nan=False) is None
    assert gate(a, b, psnr(20), equal_nan=False) is None
    assert gate(a, -b, cosine(0.5), equal_nan=False) is None
    for tolerance in (bitwise, ulp(10**9)):
        assert gate(a, b, tolerance, equal_nan=False) is None
    assert gate(a, b.double(), close(atol=9), equal_nan=False) is None
    assert gate(a.int(), b.int() + 1, close(atol=9), equal_nan=False) is None


def test_a_limit_that_rounding_could_decide_is_decided_in_float64():
    """In float32, |a - b| rounds to just the limit of 0.1; in truth it is above."""
    expected = torch.tensor([1.0])
    actual = torch.tensor([1.1], dtype=torch.float32)
    exact = float(actual.double() - 1)
    assert gate(actual, expected, close(atol=exact), equal_nan=False) is not None
    assert gate(actual, expected, close(atol=math.nextafter(exact, 0)), equal_nan=False) is None


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e25, 1e37])
def test_values_whose_squares_leave_float32(scale):
    expected = torch.randn(1000) * scale
    sums = gate(expected * 1.5, expected, close(rtol=0.6), equal_nan=False)
    assert sums is not None
    assert sums.relative_difference == pytest.approx(0.5, rel=1e-3)


def test_zeros_in_expected_do_not_spoil_the_relative_error():
    expected = torch.tensor([0.0, 1.0])
    sums = gate(torch.tensor([1e-6, 1.0 + 2.0**-20]), expected, close(1e-5, 1e-5), equal_nan=False)
    assert sums is not None
    assert sums.max_rel == pytest.approx(2.0**-20)


def test_matched_infinities():
    expected = torch.tensor([math.inf, 1.0, -math.inf])
    sums = gate(
        torch.tensor([math.inf, 1.0 + 2.0**-20, -math.inf]), expected, close(1e-5, 1e-5), equal_nan=False
    )
    assert sums is not None
    assert (sums.numel, sums.max_abs) == (1, 2.0**-20)
