from __future__ import annotations

import math

import pytest
import torch

from pytest_genmodel.tensors.bits import Bits, holds_nan, look_at_bits
from pytest_genmodel.tensors.examination import AxisCount, examine
from pytest_genmodel.tensors.inspection import inspect
from pytest_genmodel.tensors.tolerance import bitwise, close, ulp

from .strategies import EVERY, draw


@pytest.mark.parametrize("dtype", EVERY)
def test_holds_nan(dtype):
    tensor = draw((700,), dtype, 0)
    assert not holds_nan(tensor)
    if dtype.is_floating_point or dtype.is_complex:
        tensor[600] = math.nan
        assert holds_nan(tensor)


def test_infinities_are_no_nan():
    assert not holds_nan(torch.tensor([math.inf, -math.inf]))
    assert not holds_nan(torch.full((2**19,), 60000, dtype=torch.float16))
    assert holds_nan(torch.cat([torch.zeros(2**18), torch.tensor([math.nan])]))


def test_counts_add_up_over_blocks():
    expected = torch.randn(3, 200, 300)
    actual = expected.clone()
    actual[2, 199] += 1
    actual[0, 0, 0] = math.nan
    found = examine(actual, expected, close(0.0, 0.5), equal_nan=False, in_detail=True)
    assert (found.mismatched, found.odd) == (301, 1)
    assert found.tallies[0].first_nan == 0
    assert found.needed_atol == pytest.approx(1.0, abs=1e-5)
    assert found.worst[0] == 0
    assert [count.mismatched.sum() for count in found.axes] == [301, 301, 301]
    assert found.axes[1].mismatched[199] == 300


def test_axis_count_for_one_dimension():
    count = AxisCount.along(0, 5)
    found = examine(torch.arange(5.0), torch.zeros(5), close(0.0, 2.5), equal_nan=False, in_detail=True)
    assert found.axes[0].mismatched.tolist() == [0, 0, 0, 1, 1]
    assert found.axes[0].max_abs.tolist() == [0, 1, 2, 3, 4]
    assert count.mismatched.tolist() == [0] * 5


def test_bitwise_counts_what_only_bits_tell():
    found = examine(
        torch.tensor([0.0, 1.0, 2.0]),
        torch.tensor([-0.0, 1.0, 3.0]),
        bitwise,
        equal_nan=False,
        in_detail=True,
    )
    assert (found.mismatched, found.silent) == (2, 1)


def test_inspection_of_complex_numbers():
    seen = inspect(torch.tensor([3 + 4j]), torch.tensor([0j]), close(0.0, 4.9), equal_nan=False)
    assert float(seen.distance) == 5.0
    assert bool(seen.bad)


def test_ulps_of_two_dtypes_are_those_of_the_coarser():
    seen = inspect(
        torch.tensor([1.0078125], dtype=torch.bfloat16), torch.tensor([1.0]), ulp(1), equal_nan=False
    )
    assert float(seen.score) == 1.0


def test_zeros_of_other_sign_are_told_from_what_differs_in_value():
    actual, expected = torch.tensor([1.0, -0.0, 3.0, 9.0]), torch.tensor([1.0, 0.0, 4.0, math.nan])

    found = examine(actual, expected, bitwise, equal_nan=False, in_detail=True)

    assert (found.mismatched, found.odd, found.silent) == (3, 1, 1)


def test_place_of_a_difference_in_sign_alone_is_found():
    actual, expected = torch.tensor([1.0, 2.0, -0.0, 3.0]), torch.tensor([1.0, 2.0, 0.0, 3.0])

    found = examine(actual, expected, bitwise, equal_nan=False, in_detail=True)

    assert found.worst is not None
    assert found.worst[0] == 2


def test_zeros_on_both_sides_leave_the_needed_figures_alone():
    actual, expected = torch.tensor([0.0, 1.0, 2.2, 0.0]), torch.tensor([0.0, 1.0, 2.0, 0.0])

    found = examine(actual, expected, close(rtol=1e-3), equal_nan=False, in_detail=True)

    assert found.needed_rtol == pytest.approx(0.1)
    assert found.needed_atol == pytest.approx(0.2 - 2e-3)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2, torch.int32]
)
@pytest.mark.parametrize("turned", [False, True])
def test_bits_of_large_tensors(dtype, turned):
    """Several tasks: what differs or is NaN stands in the last of them, or in the first."""
    expected = draw((1200, 1100), torch.float32, 0).mul_(100).to(dtype)
    actual = expected.clone()
    if turned:
        actual, expected = actual.t(), expected.t()
    assert look_at_bits(actual, expected, ask_nan=True) is Bits.SAME
    for place in ((-1, -1), (0, 0)):
        if dtype.is_floating_point:
            actual[place] = expected[place] = math.nan
            assert look_at_bits(actual, expected, ask_nan=True) is Bits.SAME_WITH_NAN
            assert look_at_bits(actual, expected, ask_nan=False) is Bits.SAME
        actual[place], expected[place] = 1, 2
        assert look_at_bits(actual, expected, ask_nan=True) is Bits.DIFFERENT
        actual[place] = 2
