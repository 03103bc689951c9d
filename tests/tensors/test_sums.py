from __future__ import annotations

import math

import pytest
import torch

from pytest_genmodel.tensors.inspection import inspect
from pytest_genmodel.tensors.sums import Sums
from pytest_genmodel.tensors.tolerance import bitwise


def sums_of(actual: torch.Tensor, expected: torch.Tensor) -> Sums:
    return inspect(actual, expected, bitwise, equal_nan=False).sums


def test_against_the_definitions():
    b = torch.randn(1000, dtype=torch.float64)
    a = b + 0.1 * torch.randn(1000, dtype=torch.float64)
    sums = sums_of(a, b)
    assert sums.rms == pytest.approx(float((a - b).square().mean().sqrt()))
    assert sums.relative_difference == pytest.approx(float((a - b).norm() / b.norm()))
    assert sums.relative_norm_change == pytest.approx(float(abs(a.norm() - b.norm()) / b.norm()))
    assert sums.cosine == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)))
    assert sums.psnr(2.0) == pytest.approx(10 * math.log10(4.0 / float((a - b).square().mean())))
    assert sums.max_rel == pytest.approx(float(((a - b) / b).abs().max()))


def test_a_tiny_norm_change_does_not_cancel():
    b = torch.randn(1000, dtype=torch.float64)
    assert sums_of(b * (1 + 1e-11), b).relative_norm_change == pytest.approx(1e-11, rel=1e-3)


def test_parts_add_up():
    a, b = torch.randn(100, dtype=torch.float64), torch.randn(100, dtype=torch.float64)
    whole, parts = sums_of(a, b), Sums()
    for part in (slice(0, 30), slice(30, 100)):
        parts.add(sums_of(a[part], b[part]))
    assert parts.numel == whole.numel == 100
    assert parts.cross == pytest.approx(whole.cross)
    assert parts.max_abs == whole.max_abs


def test_zeros():
    zero, one = torch.zeros(3), torch.ones(3)
    nothing = sums_of(zero, zero)
    assert (nothing.relative_difference, nothing.relative_norm_change, nothing.cosine) == (0.0, 0.0, 1.0)
    lost = sums_of(one, zero)
    assert (lost.relative_difference, lost.relative_norm_change, lost.cosine) == (math.inf, math.inf, 0.0)
    assert lost.max_rel == 0.0
    assert sums_of(zero, one).relative_norm_change == pytest.approx(1.0)
    assert Sums().rms == 0.0
