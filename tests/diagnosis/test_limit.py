"""A number against its limit, as evidence and in words."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_genmodel.diagnosis.limit import (
    ESTIMATED,
    KEY,
    against,
    beyond_tolerance,
    limit_in,
    measured_text,
    passing_text,
    rounding_to,
)
from pytest_genmodel.reports.report import plain
from pytest_genmodel.tensors import Comparison, Tolerance, bitwise, close, compare, cosine, psnr, ulp
from pytest_genmodel.tensors.smallest import NO_TOLERANCE

ONE = torch.ones(4)


@pytest.mark.parametrize(
    ("tolerance", "number", "passes"),
    [
        (bitwise, "0.5 max |a-b|; limit 0 (bitwise)", "tolerance=close(atol=0.5)"),
        (
            close(0.1, 0.1),
            "0.5 |a-b|; limit 0.2 (close(rtol=0.1, atol=0.1))",
            "tolerance=close(rtol=0.1, atol=0.4)",
        ),
        (ulp(3), "4.194e+06 ULP; limit 3 (ulp(3))", "tolerance=ulp(4194304)"),
        (psnr(30), "6.021 dB; at least 30 (psnr(30))", "tolerance=psnr(6.02)"),
    ],
)
def test_tolerances(tolerance, number, passes):
    limit = plain(beyond_tolerance(compare(ONE + 0.5, ONE, tolerance), parameter="tolerance"))[KEY]

    assert measured_text(limit) == number
    assert passing_text(limit) == passes
    assert compare(ONE + 0.5, ONE, Tolerance.parse(limit["smallest_tolerance"])).passed


def test_a_claim_without_a_parameter_says_whose_limit_it_is():
    limit = beyond_tolerance(compare(-ONE, ONE, cosine(0.5)))[KEY]

    assert passing_text(limit) == "cosine(-1) (as a tolerance of assert_close; the limit is the claim's own)"
    assert passing_text(against(0.3, 0.1, "dB")[KEY]) == "a limit of 0.3 dB (the limit is the claim's own)"
    assert measured_text(against(0.3, 0.1, "dB", least=True)[KEY]) == "0.3 dB; at least 0.1"


def test_several_tensors_pass_together():
    apart = [compare(ONE + 0.5, ONE, bitwise), compare(ONE + 2, ONE, bitwise)]

    assert passing_text(beyond_tolerance(apart)[KEY]).startswith("close(atol=2) ")


def test_what_nothing_passes():
    shape = beyond_tolerance(compare(torch.ones(3), ONE, bitwise))[KEY]
    nan = beyond_tolerance(compare(ONE * math.nan, ONE, bitwise), parameter="tolerance")[KEY]

    assert measured_text(shape) == "shape; limit: bitwise"
    assert {passing_text(one) for one in (shape, nan, None, against(math.nan, 1.0, "dB")[KEY])} == {
        NO_TOLERANCE
    }


def test_an_estimate_says_that_it_is_one():
    sides = ((4,), (4,)), ("float32", "float32"), ("cpu", "cpu")
    estimated = Comparison(False, bitwise, "values", *sides, numel=4, relative_difference=0.02)
    limit = beyond_tolerance(estimated)[KEY]

    assert measured_text(limit) == "0.02 relative difference, estimated; limit 0 (bitwise)"
    assert passing_text(limit) == ESTIMATED


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_passes_what_rounding_does(dtype):
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(10_000, generator=generator) * torch.logspace(-9, 4, 10_000)
    enough = Tolerance.parse(rounding_to(dtype)[KEY]["smallest_tolerance"])

    rounded = wide.to(getattr(torch, dtype)).float()
    assert compare(rounded, wide, enough).passed
    assert not compare(rounded, wide, close(enough.rtol * 0.9, enough.atol * 0.9)).passed
    both = [compare(rounded + 0.5, rounded, bitwise)]
    assert Tolerance.parse(rounding_to(dtype, also=both)[KEY]["smallest_tolerance"]).atol >= 0.5


def test_a_limit_that_stands_by_itself_is_found_too():
    assert (
        measured_text(limit_in({"relative_difference": 0.2, "limit": 0.1}))
        == "0.2 relative difference; limit 0.1"
    )
    assert limit_in({"count": 3}) is None
    assert limit_in({"limit": 0.1}) is None


def test_what_somebody_else_has_written_is_shown_and_not_acted_upon():
    hostile = {
        "number": [1],
        "limit": "x",
        "unit": 3,
        "tolerance": {},
        "smallest_tolerance": "__import__('os')",
    }

    assert passing_text(hostile).startswith("__import__('os')")
    assert measured_text(hostile) is None or isinstance(measured_text(hostile), str)
