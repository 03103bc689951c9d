"""Every likeness is recognised, in several dtypes and shapes, and none is claimed for what it is not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_genmodel.tensors import Likeness, bitwise, compare, explain
from pytest_genmodel.tensors.likeness_values import factor_story

from .strategies import FLOATS, draw, quick, shapes, tensors

SHAPES = [(64, 48), (5, 3, 16, 16), (2, 4, 3, 8, 10)]
STATISTICAL = {"fresh_init", "noise", "unrelated", "correlated"}
every_float = pytest.mark.parametrize("dtype", FLOATS)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def found(actual: torch.Tensor, expected: torch.Tensor, **options) -> Likeness:
    likeness = explain(actual, expected, **options)
    assert likeness is not None
    for sentence in (likeness.text, likeness.hint):
        assert sentence
        assert sentence.isascii()
        assert "\n" not in sentence
    return likeness


def exact(likeness: Likeness, kind: str) -> None:
    assert likeness.kind == kind, likeness
    assert likeness.residual == 0.0


# Values -------------------------------------------------------------------------------------------


@every_float
@every_shape
def test_zero_constant_and_sign(dtype, shape):
    expected = draw(shape, dtype, 1)
    exact(found(torch.zeros_like(expected), expected), "all_zero")
    exact(found(torch.ones_like(expected), expected), "constant")
    assert "normalisation" in found(torch.ones_like(expected), expected).text
    assert found(expected, torch.zeros_like(expected)).kind == "expected_constant"
    exact(found(-expected, expected), "sign_flipped")


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_shape
def test_cast(dtype, narrow, shape):
    expected = draw(shape, dtype, 1)
    rounded = expected.to(narrow).to(dtype)
    name = str(narrow).removeprefix("torch.")
    likeness = found(rounded, expected)
    exact(likeness, f"cast_{name}")
    assert likeness.text.startswith("actual is expected rounded")
    reverse = found(expected, rounded)
    exact(reverse, f"cast_{name}")
    assert reverse.text.startswith("expected is actual rounded")
    exact(found(expected.to(narrow), expected), f"cast_{name}")


def test_cast_by_truncation():
    expected = torch.randn(100, 100)
    truncated = (expected.view(torch.int32) & ~0xFFFF).view(torch.float32)
    likeness = found(truncated, expected)
    assert likeness.kind == "cast_bfloat16"
    assert "last bit" in likeness.text
    assert likeness.residual > 0


@every_float
@every_shape
@pytest.mark.parametrize("factor", [0.25, 128.0, 1.01, 1 / 3, -2.0, 0.7, 1.0073])
def test_scaled(dtype, shape, factor):
    expected = draw(shape, dtype, 1)
    likeness = found(expected * factor, expected)
    assert likeness.kind == "scaled", likeness
    assert likeness.details["factor"] == pytest.approx(factor, rel=1e-3)
    assert likeness.residual <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.25, " = 1/4"),
        (1 / 128, " = 1/128"),
        (-0.5, " = -1/2"),
        (1.5, " = 3/2"),
        (4.0, ""),
        (0.49, "the square of 0.7, the VAE scaling_factor of CogVideoX-5B"),
        (1 / 0.18215, "1 / 0.18215"),
        (1.0173, ""),
    ],
)
def test_factor_story(factor, words):
    assert words in factor_story(factor)
    assert bool(words) == bool(factor_story(factor))


@every_float
@every_shape
def test_offset_and_ranges(dtype, shape):
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    likeness = found(pixels + 0.25, pixels)
    assert likeness.kind == "offset"
    assert likeness.details["offset"] == pytest.approx(0.25, rel=0.01)
    for actual, expected, words in [
        (pixels * 2 - 1, pixels, "[0, 1] became [-1, 1]"),
        (pixels * 255, pixels, "[0, 1] became [0, 255]"),
        ((pixels * 2 - 1) / 2 + 0.5, pixels * 2 - 1, "[-1, 1] became [0, 1]"),
        (pixels, pixels * 255, "[0, 255] became [0, 1]"),
    ]:
        likeness = found(actual, expected)
        assert likeness.kind == "range_mapped"
        assert words in likeness.text


def test_an_unfamiliar_line():
    expected = torch.rand(50, 50)
    likeness = found((expected - 0.4814) / 0.2686, expected)
    assert likeness.kind == "range_mapped"
    assert likeness.details["factor"] == pytest.approx(1 / 0.2686, rel=1e-3)


def test_bytes():
    pixels = torch.rand(3, 40, 40)
    assert found((pixels * 255).round() / 255, pixels).kind == "rounded_8bit"
    assert found((pixels * 255).floor() / 255, pixels).kind == "rounded_8bit"
    signed = pixels * 2 - 1
    assert found(((signed + 1) * 127.5).round() / 127.5 - 1, signed).kind == "rounded_8bit"


@every_float
@every_shape
def test_nan(dtype, shape):
    expected = draw(shape, dtype, 1)
    actual = expected.clone()
    actual.view(-1)[10:20] = math.nan
    likeness = found(actual, expected)
    assert likeness.kind == "nan_block"
    assert "10 of" in likeness.text
    assert "one run" in likeness.text
    assert "the rest is equal" in likeness.text
    assert "expected are NaN" in found(expected, actual).text
    assert "all" in found(torch.full_like(expected, math.nan), expected).text


# Layout -------------------------------------------------------------------------------------------


@every_float
def test_transposed(dtype):
    square = draw((48, 48), dtype, 1)
    exact(found(square.t(), square), "transposed")
    wide = draw((30, 48), dtype, 1)
    exact(found(wide.t().reshape(30, 48), wide), "transposed")
    video = draw((2, 6, 3, 6, 8), dtype, 1)
    likeness = found(video.transpose(1, 3), video, names=("batch", "frame", "channel", "height", "width"))
    exact(likeness, "transposed")
    assert "frame and height swapped" in likeness.text


@every_float
@every_shape
def test_along_an_axis(dtype, shape):
    expected = draw(shape, dtype, 1)
    for axis, size in enumerate(shape):
        if size > 2:
            exact(found(expected.flip(axis), expected), "axis_flipped")
            exact(found(expected.roll(1, axis), expected), "axis_rolled")
            assert "rolled by -1" in found(expected.roll(-1, axis), expected).text
        if size > 2 and size % 2 == 0:
            exact(found(expected.roll(size // 2, axis), expected), "halves_swapped")
        if size > 4:
            order = list(range(size))
            order[1], order[3] = order[3], order[1]
            likeness = found(expected.index_select(axis, torch.tensor(order)), expected)
            exact(likeness, "permuted")
            assert f"entries 1 and 3 along axis {axis} swapped" in likeness.text


def test_colours():
    frames = torch.rand(4, 3, 16, 16)
    likeness = found(frames.flip(1), frames, names=("frame", "channel", "height", "width"))
    assert "reversed along channel (size 3: RGB read as BGR)" in likeness.text
    noisy = found(frames.flip(1) + 0.002 * torch.randn_like(frames), frames)
    assert noisy.kind == "axis_flipped"
    assert 0 < noisy.residual < 0.01
    assert "% of its size" in noisy.text


def test_regrouped_rows():
    expected = torch.randn(24, 16)
    likeness = found(expected.view(2, 12, 16).transpose(0, 1).reshape(24, 16), expected)
    assert likeness.kind == "transposed" or "regrouped" in likeness.text
    assert likeness.residual == 0.0


def test_moves_are_found_under_noise():
    frames = torch.rand(9, 3, 16, 16)
    likeness = found(frames.roll(2, 0) + 0.002 * torch.randn_like(frames), frames)
    assert likeness.kind == "axis_rolled"
    assert likeness.details["shift"] == 2


@every_float
def test_one_dimension(dtype):
    line = torch.arange(200).to(torch.float64).sin().to(dtype)
    exact(found(line.flip(0), line), "axis_flipped")
    exact(found(line.roll(7), line), "axis_rolled")
    exact(found(line.roll(100), line), "halves_swapped")
    exact(found(line[torch.randperm(200)], line), "permuted")


@pytest.mark.parametrize("shift", [1, 3, -5])
def test_flat_shift(shift):
    source = torch.randn(50 * 40 + 100)
    expected, actual = source[50:2050].view(50, 40), source[50 - shift : 2050 - shift].view(50, 40)
    likeness = found(actual, expected)
    exact(likeness, "flat_shift")
    assert f"{abs(shift)} elements {'later' if shift > 0 else 'earlier'}" in likeness.text


def test_flat_shift_by_bytes():
    raw = torch.randn(1000).view(torch.uint8)
    expected, actual = raw[:3600].clone().view(torch.float32), raw[3:3603].clone().view(torch.float32)
    assume_finite = torch.isfinite(actual) & torch.isfinite(expected)
    if bool(assume_finite.all()):
        assert "3 bytes earlier" in found(actual, expected).text


def test_same_values_elsewhere():
    expected = torch.randn(6, 8, 10)
    actual = expected.view(-1)[torch.randperm(480)].view(6, 8, 10)
    likeness = found(actual, expected)
    exact(likeness, "permuted")
    assert "in another order" in likeness.text


def test_a_rearrangement_beyond_the_full_check_is_sampled(monkeypatch):
    monkeypatch.setattr("pytest_genmodel.tensors.likeness_layout.FULL_CHECK", 100)
    expected = torch.randn(64, 64)
    likeness = found(expected.flip(0), expected)
    assert likeness.kind == "axis_flipped"
    assert "(checked at 1048576 places)" in likeness.text


# Where --------------------------------------------------------------------------------------------


@every_float
@every_shape
def test_few_elements(dtype, shape):
    expected = draw(shape, dtype, 1)
    actual = expected.clone()
    actual.view(-1)[[3, 400]] += 2
    likeness = found(actual, expected)
    assert likeness.kind == "few_elements"
    assert likeness.text.startswith(f"only 2 of {expected.numel()} elements differ")


def test_one_bit():
    expected = torch.randn(1000)
    actual = expected.clone()
    actual.view(torch.int32)[500] ^= 1 << 22
    likeness = found(actual, expected)
    assert "one bit, number 22, is flipped" in likeness.text
    assert "damaged" in likeness.hint


@every_float
def test_block(dtype):
    expected = draw((64, 48), dtype, 1)
    actual = expected.clone()
    actual[56:] = 0
    likeness = found(actual, expected, names=("row", "column"))
    assert likeness.kind == "block"
    assert "56..63 of 64 along row" in likeness.text
    assert "zero" in likeness.text
    assert (likeness.details["start"], likeness.details["stop"]) == (56, 64)
    actual = expected.clone()
    actual[:, :16] *= 0.5
    likeness = found(actual, expected)
    assert likeness.details["inside"] == "scaled"
    assert "1/2" in likeness.text


# Statistics ---------------------------------------------------------------------------------------


def test_fresh_init_of_a_linear_layer():
    trained = 0.3 * torch.randn(128, 96)
    fresh = torch.nn.Linear(96, 128).weight
    likeness = found(fresh, trained)
    assert likeness.kind == "fresh_init"
    assert "1/sqrt(96)" in likeness.text
    assert likeness.details["n"] == 128 * 96


def test_fresh_init_by_spread():
    trained = 0.3 * torch.randn(128, 96)
    assert found(0.02 * torch.randn(128, 96), trained).kind == "fresh_init"
    assert "mean and spread of expected" in found(0.3 * torch.randn(128, 96), trained).text
    assert found(0.1 * torch.randn(128, 96) + 0.05, trained).kind == "unrelated"


@every_float
@every_shape
def test_noise(dtype, shape):
    expected = draw(shape, torch.float64, 1)
    size = max(1e-4, 4 * torch.finfo(dtype).eps)
    actual = (expected + size * draw(shape, torch.float64, 2)).to(dtype)
    likeness = found(actual, expected.to(dtype))
    assert likeness.kind == "noise", likeness
    assert likeness.details["size"] == pytest.approx(size, rel=0.3)


def test_noise_says_whether_rounding_can_do_that():
    expected = torch.randn(64, 64)
    assert "kernel" in found(expected + 3e-7 * torch.randn_like(expected), expected).hint
    assert "half-precision" in found(expected + 3e-3 * torch.randn_like(expected), expected).hint
    assert "Too large for rounding" in found(expected + 0.1 * torch.randn_like(expected), expected).hint


def test_related_by_no_simple_rule():
    expected = torch.randn(64, 64)
    assert found(expected + expected.abs() * torch.randn_like(expected), expected).kind in STATISTICAL
    assert found(expected**3, expected).kind == "correlated"


# Not claimed --------------------------------------------------------------------------------------


@quick
@given(shapes(least=2, most=9), st.sampled_from([torch.float64, torch.float32]), st.integers(0, 10**6))
def test_unrelated_tensors_are_never_a_transformation(shape, dtype, seed):
    assume(math.prod(shape) >= 4)
    likeness = explain(draw(shape, dtype, seed), draw(shape, dtype, seed + 1))
    assert likeness is None or likeness.kind in STATISTICAL, likeness


@quick
@given(shapes(least=2, most=9), st.sampled_from([0.0, 5.0, 1000.0]), st.integers(0, 10**6))
def test_a_common_mean_is_no_likeness(shape, mean, seed):
    assume(math.prod(shape) >= 12)
    likeness = explain(
        draw(shape, torch.float32, seed) + mean, draw(shape, torch.float32, seed + 1) + 2 * mean
    )
    assert likeness is None or likeness.kind in STATISTICAL, likeness


@quick
@given(tensors())
def test_equal_tensors_look_like_nothing(tensor):
    assert explain(tensor, tensor.clone()) is None


@quick
@given(tensors(), st.integers(0, 10**6))
def test_any_pair_gets_an_answer_or_none(tensor, seed):
    likeness = explain(draw(tuple(tensor.shape), tensor.dtype, seed), tensor)
    assert likeness is None or (likeness.text and likeness.hint)


def test_smooth_frames_that_barely_change_when_flipped():
    ramp = torch.linspace(0.5, 0.51, 32).expand(3, 32, 32).contiguous()
    likeness = found(ramp + 0.003 * torch.randn_like(ramp), ramp)
    assert likeness.kind in STATISTICAL


@pytest.mark.parametrize(("first", "second"), [((), ()), ((1,), (1,)), ((2,), (3,))])
def test_too_little_to_say(first, second):
    assert explain(torch.ones(first), torch.zeros(second)) is None


@quick
@given(shapes(least=1, most=4), st.integers(0, 10**6))
def test_small_masks_are_no_permutations_of_each_other(shape, seed):
    likeness = explain(draw(shape, torch.bool, seed), draw(shape, torch.bool, seed + 1))
    layouts = {"transposed", "axis_flipped", "axis_rolled", "halves_swapped", "permuted", "flat_shift"}
    assert likeness is None or math.prod(shape) >= 64 or likeness.kind not in layouts


def test_a_flipped_mask():
    mask = torch.rand(32, 32) > 0.5
    exact(found(mask.flip(1), mask), "axis_flipped")


def test_complex_numbers():
    expected = torch.randn(20, 20, dtype=torch.complex64)
    exact(found(expected.t(), expected, names=("row", "column")), "transposed")
    exact(found(2 * expected, expected), "scaled")


def test_without_contiguity():
    expected = torch.randn(40, 30).t()
    exact(found((2 * expected).contiguous(), expected), "scaled")
    exact(found(expected.flip(0), expected), "axis_flipped")
    assert found(torch.zeros(1).expand(30, 40), expected).kind == "all_zero"


def test_a_rearrangement_is_recognised_by_compare_too():
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(30, 40, generator=generator)
    actual = expected.view(-1)[torch.randperm(1200, generator=generator)].view(30, 40)

    likeness = compare(actual, expected, bitwise).likeness

    assert likeness is not None
    assert likeness.kind == "permuted"


def test_nan_that_both_sides_have_is_no_difference():
    expected = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    expected[10:400] = math.nan
    actual = expected.clone()
    actual[500] += 1.0

    likeness = explain(actual, expected)

    assert likeness is not None
    assert (likeness.kind, likeness.details["count"]) == ("few_elements", 1)
