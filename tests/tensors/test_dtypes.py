from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_genmodel.tensors.dtypes import as_wide, epsilon, kind_of, largest_ulp_distance, ulp_distance

from .strategies import FLOATS, quick


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.float8_e4m3fn, "float"),
        (torch.bfloat16, "float"),
        (torch.complex64, "complex"),
        (torch.uint64, "int"),
        (torch.bool, "bool"),
        (torch.bits8, "opaque"),
    ],
)
def test_kinds(dtype, kind):
    assert kind_of(dtype) == kind


@quick
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 1000))
def test_ulps_count_neighbours(value, steps):
    start = end = numpy.float32(value)
    other = torch.tensor(start).view(torch.int32)
    for _ in range(min(steps, 30)):
        end = numpy.nextafter(end, numpy.float32(numpy.inf))
    if numpy.isfinite(end):
        assert float(ulp_distance(torch.tensor([start]), torch.tensor([end]))) == min(steps, 30)
    assert float(ulp_distance(other.view(torch.float32)[None], torch.tensor([start]))) == 0


@pytest.mark.parametrize("dtype", [*FLOATS, torch.float8_e4m3fn, torch.float8_e5m2])
def test_ulps_across_zero(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    minus, plus = torch.tensor([-0.0, -tiny]).to(dtype), torch.tensor([0.0, tiny]).to(dtype)
    apart = ulp_distance(minus, plus)
    assert apart[0] == 0
    assert apart[1] == 2 * ulp_distance(plus[1:], plus[:1])


def test_the_two_ends_of_float64():
    largest = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    assert float(ulp_distance(largest, -largest)) == pytest.approx(2 * 0x7FEFFFFFFFFFFFFF)


def test_precision():
    assert epsilon(torch.float32) == 2.0**-23
    assert epsilon(torch.int8) == 0.0
    assert as_wide(torch.tensor([2**40])).dtype == torch.float64
    assert as_wide(torch.tensor([1j])).dtype == torch.complex128


@quick
@given(
    st.sampled_from([*FLOATS, torch.float8_e4m3fn]),
    st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=8),
)
def test_largest_distance_is_the_largest_of_all(dtype, words):
    """Of any bits: values of both signs, at both ends of the range."""
    bits = torch.tensor([word - 2**63 for word in words]).view(torch.uint8)
    values = bits.view(dtype).to(torch.float64).nan_to_num(0.0, 1.0, -1.0).to(dtype)
    values = torch.cat([values, torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min]).to(dtype)])
    other = values.to(torch.float64).flip(0).to(dtype)
    assert largest_ulp_distance(values, other) == int(ulp_distance(values, other).amax())
