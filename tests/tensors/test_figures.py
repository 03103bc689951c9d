"""The fast figures of a block: those of the inspection in float64, or none."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_genmodel.tensors import blocks, compare
from pytest_genmodel.tensors.counting import count_nonzero, count_true
from pytest_genmodel.tensors.figures import Workspace, fast_figures
from pytest_genmodel.tensors.inspection import inspect
from pytest_genmodel.tensors.tolerance import Close, close, psnr
from pytest_genmodel.tensors.widening import Widening, working_dtype

from .strategies import FLOATS, INTEGERS, draw, quick

REAL = [*FLOATS, torch.float8_e4m3fn, torch.float8_e5m2, *INTEGERS, torch.bool]
EIGHT_BIT = [
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]


@quick
@given(
    st.sampled_from(REAL),
    st.sampled_from(REAL),
    st.integers(1, 700),
    st.sampled_from([1.0, 1e-3, 1e-25, 1e25]),
    st.lists(st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf]), max_size=3),
    st.integers(0, 99),
)
def test_figures_of_any_two_dtypes_are_those_of_float64(first, second, numel, size, specials, seed):
    expected = (draw((numel,), torch.float64, seed) * size).to(second)
    actual = (expected.to(torch.float64) + 1e-2 * size * draw((numel,), torch.float64, seed + 1)).to(first)
    if second.is_floating_point:
        for place, value in enumerate(specials):
            expected[place % numel] = value

    found = fast_figures(actual, expected, Workspace(first, second, 700))

    if found is None:
        return
    right = inspect(actual, expected, Close(0.0, math.inf), equal_nan=False).sums
    assert (found.numel, found.differing) == (right.numel, right.differing)
    for figure in ("max_abs", "max_rel", "square_difference", "square_expected"):
        assert math.isclose(getattr(found, figure), getattr(right, figure), rel_tol=3e-6), figure
    scale = math.sqrt(right.square_difference * right.square_expected)
    assert math.isclose(found.cross, right.cross, abs_tol=1e-5 * scale)


def test_nothing_is_said_of_blocks_that_need_care():
    workspace = Workspace(torch.float32, torch.float32, 3)
    plain = torch.tensor([1.0, 2.0, 3.0])
    for odd in ([math.nan, 2, 3], [math.inf, 2, 3], [3e38, 3e38, 3], [1e-30, 1e-30, 1e-30]):
        assert fast_figures(plain, torch.tensor(odd), workspace) is None
    for odd in ([math.nan, 2, 3], [-math.inf, 2, 3], [3e38, 3e38, 3]):
        assert fast_figures(torch.tensor(odd), plain, workspace) is None


def test_zeros_have_no_relative_difference_and_either_sign():
    workspace = Workspace(torch.float32, torch.float32, 4)
    expected = torch.tensor([0.0, -0.0, 2.0, 0.0])

    only_signs = fast_figures(-expected.abs() + torch.tensor([0.0, 0, 4, 0]), expected, workspace)
    assert only_signs.differing == 0

    found = fast_figures(torch.tensor([5.0, 0.0, 2.5, 0.0]), expected, workspace)
    assert (found.differing, found.max_abs, found.max_rel) == (2, 5.0, 0.25)


@pytest.mark.parametrize("dtype", EIGHT_BIT)
@pytest.mark.parametrize("start", [0, 1])
def test_every_eight_bit_float_is_read_right(dtype, start):
    block = torch.arange(256).to(torch.uint8).view(dtype)[start:]
    found = Widening(dtype, working_dtype(dtype), 256).load(block)
    assert torch.equal(found.view(torch.int32), block.to(torch.float32).view(torch.int32))


@quick
@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 99))
def test_counts(numel, share, seed):
    mask = torch.rand(numel, generator=torch.Generator().manual_seed(seed)) < share
    values = torch.where(mask, -1.5, -0.0)
    assert count_true(mask) == count_nonzero(values, torch.empty(numel)) == int(mask.sum())


@pytest.mark.parametrize("tolerance", [close(atol=9.0), close(atol=1e-3), psnr(10), "bitwise", "ulp:3"])
@pytest.mark.parametrize("shape", [(3, 500_000), (1200, 1100)])
def test_same_comparison_in_any_number_of_threads(tolerance, shape, monkeypatch):
    monkeypatch.setattr(blocks, "THREADS", 3)
    expected = draw(shape, torch.float32, 0)
    actual = expected + 1e-2 * draw(shape, torch.float32, 1)
    actual.view(-1)[::7] = expected.view(-1)[::7]
    for turned in (False, True):
        sides = (actual.t(), expected.t()) if turned else (actual, expected)
        found = []
        for limit in (10**9, 0):  # one thread for all, three threads for all
            monkeypatch.setattr(blocks, "_WORTH_A_THREAD", limit)
            found.append(compare(*sides, tolerance))
        assert found[0] == found[1]
        assert found[0].differing == int((actual != expected).sum())
