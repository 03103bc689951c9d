"""Two dtypes compared: what a lossless cast is, which default holds, and real numbers beside complex ones."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_genmodel.tensors import bitwise, close, compare, cosine, psnr, ulp

from .strategies import draw


def test_dtypes_must_match_unless_told_otherwise():
    values = torch.randn(20).to(torch.bfloat16)
    comparison = compare(values, values.float())
    assert (comparison.passed, comparison.problem, comparison.differing) == (False, "dtype", 0)
    assert compare(values, values.float(), check_dtype=False).passed
    assert compare(torch.empty(0), torch.empty(0, dtype=torch.int64)).problem == "dtype"


def test_the_looser_default_of_two_dtypes():
    values = torch.randn(20)
    assert compare(values.to(torch.bfloat16), values, check_dtype=False).tolerance == close(1.6e-2, 1e-5)
    assert compare(values.double(), values, close(), check_dtype=False).tolerance == close(1.3e-6, 1e-5)


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float8_e4m3fn, torch.float16),
        (torch.float32, torch.float64),
        (torch.int8, torch.float32),
        (torch.bool, torch.uint8),
        (torch.uint16, torch.int64),
        (torch.complex64, torch.complex128),
    ],
)
def test_bitwise_across_dtypes_is_a_lossless_cast(narrow, wide):
    values = draw((30,), narrow, 3)
    assert compare(values, values.to(wide), bitwise, check_dtype=False).passed
    assert compare(values.to(wide), values, bitwise, check_dtype=False).passed
    other = values.to(wide).clone()
    other[7] = other[7] + 1
    assert compare(values, other, bitwise, check_dtype=False).mismatched == 1


@pytest.mark.parametrize("real", [torch.float64, torch.float32, torch.float8_e4m3fn, torch.int64, torch.bool])
@pytest.mark.parametrize("tolerance", [bitwise, ulp(2), close(atol=1e-3), psnr(40), cosine(0.999)])
def test_a_real_number_is_a_complex_one_without_imaginary_part(real, tolerance):
    values = draw((30,), real, 3)
    whole = values.to(torch.complex128)
    beside = whole + 0.5j
    for pair in ((values, whole), (whole, values)):
        assert compare(*pair, tolerance, check_dtype=False).passed
    for pair in ((values, beside), (beside, values)):
        comparison = compare(*pair, tolerance, check_dtype=False)
        if tolerance.kind in ("bitwise", "ulp", "close"):
            assert (comparison.problem, comparison.mismatched) == ("values", 30)
        assert comparison.max_abs == 0.5


def test_bitwise_across_dtypes_is_strict():
    assert not compare(torch.tensor([-0.0]), torch.tensor([0.0]).double(), bitwise, check_dtype=False).passed
    assert compare(
        torch.tensor([math.nan]), torch.tensor([math.nan]).double(), bitwise, check_dtype=False
    ).passed
    rounded = torch.tensor([2**53 + 1])
    assert not compare(rounded, rounded.to(torch.float64), bitwise, check_dtype=False).passed
