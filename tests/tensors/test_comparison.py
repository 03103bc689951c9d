from __future__ import annotations

import json
import math

import numpy
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.tensors import bitwise, close, compare, cosine, psnr, ulp
from pytest_genmodel.tensors.dtypes import kind_of
from pytest_genmodel.tensors.tolerance import Close

from .strategies import COMPLEX, EVERY, FLOATS, draw, quick, shapes, tensors

KINDS = [None, bitwise, ulp(0), close(), close(atol=0.0), psnr(90), cosine(1.0), "psnr:25"]


@quick
@given(tensors(), st.sampled_from(KINDS))
def test_a_tensor_equals_itself_and_its_copy(tensor, tolerance):
    for other in (
        tensor,
        tensor.clone(),
        tensor.t().contiguous().t() if tensor.dim() == 2 else tensor.clone(),
    ):
        comparison = compare(other, tensor, tolerance)
        assert comparison.passed
        assert comparison.problem is None
        assert comparison.differing == comparison.mismatched == 0
        assert comparison.max_abs == comparison.relative_difference == comparison.relative_norm_change == 0.0
        assert comparison.psnr == math.inf
        assert comparison.likeness is None


# Verdicts against torch.testing -------------------------------------------------------------------


def torch_agrees(
    actual: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float, equal_nan: bool
) -> bool:
    try:
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan)
    except AssertionError:
        return False
    return True


@quick
@given(
    tensors(dtypes=[*FLOATS, *COMPLEX, torch.int64, torch.uint8, torch.bool], shape=shapes(least=1)),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1e-4, 1e-2, 0.3]),
    st.sampled_from([0.0, 1e-3, 0.1, 2.5]),
    st.sampled_from([0.0, 1e-3, 0.05]),
    st.booleans(),
)
def test_close_agrees_with_torch_testing(tensor, seed, rtol, atol, noise, equal_nan):
    generator = numpy.random.default_rng(seed)
    actual = tensor.clone()
    if kind_of(tensor.dtype) in ("float", "complex"):
        actual = (actual + noise * draw(tuple(tensor.shape), tensor.dtype, seed)).to(tensor.dtype)
        for side in (actual.view(-1), tensor.view(-1)):
            for special in (math.nan, math.inf, -math.inf, 0.0, -0.0):
                if generator.random() < 0.2:
                    side[int(generator.integers(side.numel()))] = special
    elif generator.random() < 0.5:
        actual.view(-1)[0] = actual.view(-1)[0] + 1
    verdict = compare(actual, tensor, close(rtol, atol), equal_nan=equal_nan)
    assert verdict.passed == torch_agrees(actual, tensor, rtol, atol, equal_nan)


@quick
@given(st.floats(width=32), st.floats(width=32), st.booleans())
def test_close_agrees_on_any_two_floats(actual, expected, equal_nan):
    first, second = torch.tensor(actual, dtype=torch.float32), torch.tensor(expected, dtype=torch.float32)
    distance, limit = abs(float(first) - float(second)), 1e-5 + 1.3e-6 * abs(float(second))
    assume(not math.isclose(distance, limit, rel_tol=1e-5))  # where float32 rounds torch's own verdict
    assert compare(first, second, equal_nan=equal_nan).passed == torch_agrees(
        first, second, 1.3e-6, 1e-5, equal_nan
    )


@pytest.mark.parametrize("tolerance", [close(0.1, 0.1), psnr(1), cosine(0.1), ulp(5)])
def test_nan_and_infinity(tolerance):
    nan, inf = torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.inf])
    assert not compare(nan, nan, tolerance).passed
    assert not compare(nan, nan.clone(), tolerance).passed
    assert compare(nan, nan.clone(), tolerance, equal_nan=True).passed
    assert compare(inf, inf.clone(), tolerance).passed
    assert compare(torch.tensor([1.0 + 1e-7, math.inf]), inf, tolerance).passed
    for other in (torch.ones(2), nan, -inf):
        comparison = compare(inf, other, tolerance, equal_nan=True)
        assert comparison.problem == "nonfinite"
        assert comparison.would_pass == ()


def test_nan_on_both_sides_is_explained():
    nan = torch.tensor([1.0, math.nan])
    assert "equal_nan=True" in compare(nan, nan.clone()).note
    assert compare(torch.ones(2), nan).note is None


def test_places_of_nan_and_infinity():
    actual, expected = torch.ones(3, 4), torch.ones(3, 4)
    actual[1, 2] = actual[2, 0] = math.nan
    expected[0, 3] = -math.inf
    comparison = compare(actual, expected)
    assert comparison.nonfinite[0].nan == 2
    assert comparison.nonfinite[0].first_nan == (1, 2)
    assert comparison.nonfinite[1].inf == 1
    assert comparison.nonfinite[1].first_inf == (0, 3)
    assert comparison.mismatched == 3


# Bitwise and ULP ----------------------------------------------------------------------------------


def test_bitwise_sees_the_sign_of_zero_and_the_payload_of_nan():
    assert compare(torch.zeros(3), -torch.zeros(3), close(atol=0)).passed
    zero = compare(torch.zeros(3), -torch.zeros(3), bitwise)
    assert (zero.passed, zero.mismatched, zero.differing, zero.max_abs) == (False, 3, 0, 0.0)
    assert zero.note == "all of them differ only in the sign of a zero or the payload of a NaN"
    quiet = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert compare(quiet[:1], quiet[:1].clone(), bitwise).passed
    payload = compare(quiet[:1], quiet[1:], bitwise)
    assert (payload.passed, payload.problem) == (False, "values")
    assert "payload" in payload.note


@quick
@given(tensors(dtypes=FLOATS, shape=shapes(least=1)), st.integers(0, 40))
def test_ulp_limits(tensor, steps):
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.dtype.itemsize]
    moved = (tensor.clone().view(bits) + steps).view(tensor.dtype)
    comparison = compare(moved, tensor, ulp(steps))
    assert comparison.passed
    if steps:
        failed = compare(moved, tensor, ulp(steps - 1))
        assert (failed.passed, failed.max_ulp, failed.minimum) == (False, steps, ulp(steps))


def test_integers():
    large = torch.tensor([2**62 + 1, 5])
    assert not compare(large, torch.tensor([2**62, 5])).passed
    assert not compare(large, torch.tensor([2**62, 5]), close(atol=0.5)).passed
    assert compare(large, torch.tensor([2**62, 5]), close(atol=1)).passed
    assert (
        compare(torch.tensor([250], dtype=torch.uint8), torch.tensor([3], dtype=torch.uint8)).max_abs == 247
    )
    assert compare(torch.tensor([7]), torch.tensor([9]), ulp(2)).passed
    assert compare(torch.tensor([True]), torch.tensor([False])).max_abs == 1


def test_opaque_dtypes_are_compared_bitwise_and_no_other_way():
    packed = torch.arange(4, dtype=torch.uint8).view(torch.bits8)
    assert compare(packed, packed.clone()).passed
    assert compare(packed, torch.ones(4, dtype=torch.uint8).view(torch.bits8)).mismatched == 3
    with pytest.raises(BadInputError, match="bits8 can only be compared bitwise"):
        compare(packed, packed, close(atol=1))


# The least tolerance that would have passed -------------------------------------------------------


@quick
@given(
    tensors(dtypes=[*FLOATS, torch.complex64], shape=shapes(least=1)),
    st.integers(0, 10**6),
    st.sampled_from([1e-6, 1e-3, 0.1, 10.0]),
    st.sampled_from([close(), close(atol=1e-9), close(rtol=1e-9), close(1e-3, 1e-7), bitwise]),
)
def test_the_minimum_passes_and_less_fails(tensor, seed, noise, tolerance):
    actual = (tensor + noise * draw(tuple(tensor.shape), tensor.dtype, seed)).to(tensor.dtype)
    comparison = compare(actual, tensor, tolerance)
    assume(not comparison.passed)
    assert comparison.would_pass
    for enough in comparison.would_pass:
        assert compare(actual, tensor, enough).passed, enough
        if isinstance(enough, Close) and isinstance(comparison.tolerance, Close):
            rtol, atol = enough.rtol, enough.atol
            if atol != comparison.tolerance.atol:
                assert not compare(actual, tensor, close(rtol, atol * (1 - 1e-6))).passed
            else:
                assert not compare(actual, tensor, close(rtol * (1 - 1e-6), atol)).passed


@quick
@given(tensors(dtypes=[*FLOATS, torch.uint8], shape=shapes(least=2)), st.integers(0, 10**6))
def test_the_minimum_of_psnr_and_cosine(tensor, seed):
    actual = draw(tuple(tensor.shape), tensor.dtype, seed)
    assume(not torch.equal(actual, tensor))
    measured = compare(actual, tensor, psnr(150, peak=2.0)).minimum
    assert compare(actual, tensor, measured).passed
    assert not compare(actual, tensor, psnr(measured.db + 0.01, peak=2.0)).passed
    alike = compare(actual, tensor, cosine(1.0))
    if not alike.passed:
        assert compare(actual, tensor, alike.minimum).passed
        higher = alike.minimum.minimum + 1e-5
        if higher <= 1:
            assert not compare(actual, tensor, cosine(higher)).passed


# Figures ------------------------------------------------------------------------------------------


def test_a_uniform_rescale_that_bfloat16_lets_pass_is_still_reported():
    weights = torch.randn(500, 500).to(torch.bfloat16)
    comparison = compare(weights * 1.01, weights)
    assert comparison.passed
    assert comparison.relative_norm_change == pytest.approx(0.01, rel=0.05)
    assert comparison.relative_difference == pytest.approx(0.01, rel=0.05)
    assert comparison.differing > 0.9 * comparison.numel
    assert comparison.mismatched == 0


@quick
@given(tensors(dtypes=FLOATS, shape=shapes(least=1)), st.integers(0, 10**6))
def test_figures_do_not_depend_on_the_path_taken(tensor, seed):
    """The fast pass in float32 and the examination in float64 tell the same story."""
    actual = (tensor + 1e-2 * draw(tuple(tensor.shape), tensor.dtype, seed)).to(tensor.dtype)
    fast = compare(actual, tensor, close(atol=1e3))
    slow = compare(actual, tensor, ulp(2**64))
    assert fast.passed
    assert slow.passed
    assert fast.differing == slow.differing
    for name in ("max_abs", "max_rel", "rms", "relative_difference", "relative_norm_change", "cosine"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), rel=1e-3, abs=1e-9), name


def test_the_worst_element_is_the_one_furthest_beyond_its_limit():
    expected = torch.tensor([[1e6, 1.0], [0.0, 2.0]])
    actual = torch.tensor([[1e6 + 1, 1.0], [0.5, 2.0]])
    comparison = compare(actual, expected, close(rtol=1e-5, atol=1e-5))
    assert comparison.mismatched == 1
    assert comparison.max_abs == 1.0
    assert comparison.worst.index == (1, 0)
    assert (comparison.worst.actual, comparison.worst.expected, comparison.worst.difference) == (
        0.5,
        0.0,
        0.5,
    )


@pytest.mark.parametrize("shape", [(5, 3, 4), (3, 2**16, 2), (2, 300, 400), (2**17 + 3,)])
def test_axes_and_places_across_blocks(shape):
    expected = torch.randn(shape)
    actual = expected.clone()
    index = tuple(size - 2 for size in shape)
    actual[index] += 5
    actual[(0,) * len(shape)] += 1
    comparison = compare(actual, expected)
    assert comparison.mismatched == 2
    assert comparison.worst.index == index
    assert [axis.name for axis in comparison.axes] == [
        f"axis {n}" for n, size in enumerate(shape) if size <= 4096
    ]
    for axis in comparison.axes:
        last = axis.size - 2
        assert axis.differing in (((0, 0), (last, last)), ((0, 1),), ((0, 0),))
        assert sum(axis.mismatched) == 2
        assert axis.max_abs[last] == pytest.approx(5, abs=1e-5)


def test_named_axes():
    expected = torch.rand(9, 3, 4, 4)
    actual = expected.clone()
    actual[5:] = 0
    frames = compare(actual, expected, names=("frame", "channel", "height", "width")).axes[0]
    assert (frames.name, frames.differing, frames.equal) == ("frame", ((5, 8),), ((0, 4),))


@pytest.mark.parametrize("dtype", EVERY)
def test_every_dtype_fails_with_figures(dtype):
    expected = draw((50,), dtype, 1)
    actual = draw((50,), dtype, 2)
    comparison = compare(actual, expected)
    assert not comparison.passed
    assert comparison.mismatched > 0
    assert comparison.max_abs > 0
    assert comparison.worst is not None
    json.dumps(comparison.to_json(), allow_nan=False)
    assert str(comparison).isascii()


def test_layouts():
    tensor = torch.randn(40, 30)
    assert compare(tensor.t(), tensor.t().contiguous(), bitwise).passed
    assert compare(torch.ones(1, 3).expand(5, 3), torch.ones(5, 3), bitwise).passed
    assert not compare(tensor[::2], tensor[1::2]).passed
    assert compare(tensor[::2].t(), tensor[::2].t() * (1 + 1e-7)).passed


# Structure ----------------------------------------------------------------------------------------


def test_shapes_must_match():
    comparison = compare(torch.ones(2, 3), torch.ones(3, 2))
    assert (comparison.passed, comparison.problem) == (False, "shape")
    assert comparison.shapes == ((2, 3), (3, 2))
    assert not compare(torch.ones(()), torch.ones(1)).passed
    assert not compare(torch.ones(0, 3), torch.ones(3, 0)).passed
    assert compare(torch.ones(0, 3), torch.ones(0, 3)).passed


def test_meta_tensors_fail():
    real, meta = torch.ones(3), torch.empty(3, device="meta")
    for pair in ((real, meta), (meta, real), (meta, meta)):
        comparison = compare(*pair)
        assert (comparison.passed, comparison.problem) == (False, "meta")
        assert "no file filled" in comparison.note
    assert compare(meta, torch.ones(4)).problem == "shape"


def test_devices_matter_only_when_asked():
    class Elsewhere(torch.Tensor):
        """A CPU tensor that says it is on another device."""

        @property
        def device(self):
            return torch.device("cpu", 1)

    tensor = torch.ones(3)
    other = torch.ones(3).as_subclass(Elsewhere)
    from pytest_genmodel.tensors.judge import _structural_problem

    assert _structural_problem(other, tensor, True, True) == "device"
    assert _structural_problem(other, tensor, True, False) is None
    assert compare(tensor, tensor, check_device=True).passed


# Arguments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("frame",), r"2 axes, shape \(2, 3\), but 1 names were given: frame"),
        ("ab", "one text per axis"),
        ((1, 2), "one text per axis"),
    ],
)
def test_wrong_names(names, words):
    with pytest.raises(BadInputError, match=words):
        compare(torch.ones(2, 3), torch.ones(2, 3), names=names)


@pytest.mark.parametrize("tolerance", [1e-3, ("close", 1), "near:1"])
def test_wrong_tolerance(tolerance):
    with pytest.raises(BadInputError, match="tolerance"):
        compare(torch.ones(2), torch.ones(2), tolerance)


def test_without_detail():
    comparison = compare(torch.zeros(10, 10), torch.randn(10, 10), in_detail=False)
    assert not comparison.passed
    assert comparison.mismatched == 100
    assert comparison.worst is not None
    assert (comparison.likeness, comparison.axes, comparison.max_ulp) == (None, (), None)


def test_a_comparison_says_its_verdict():
    assert "agree within" in str(compare(torch.ones(3) * (1 + 1e-6), torch.ones(3)))
    assert "are equal" in str(compare(torch.ones(3), torch.ones(3)))


def test_inputs_are_left_alone():
    actual, expected = torch.randn(1000), torch.randn(1000)
    copies = actual.clone(), expected.clone()
    compare(actual, expected, close(atol=10))
    compare(actual, expected)
    assert torch.equal(actual, copies[0])
    assert torch.equal(expected, copies[1])
