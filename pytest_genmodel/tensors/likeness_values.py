"""Likenesses that act on each value by itself: zeros, constants, casts, factors, offsets, ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch

from .dtypes import as_wide, dtype_name, kind_of, ulp_distance
from .likeness_evidence import Evidence, Fit, Likeness, Predict

# Fewer places than this do not pin a factor down: any single number is a multiple of another.
_ENOUGH_FOR_FACTOR, _ENOUGH_FOR_LINE = 4, 8

# vae/config.json of the published models: what a latent is multiplied by.
_VAE_SCALES = {
    0.7: "CogVideoX-5B",
    1.15258426: "CogVideoX-2B",
    0.18215: "Stable Diffusion 1 and 2",
    0.13025: "SDXL",
    0.476986: "HunyuanVideo",
    0.3611: "FLUX.1",
    1.5305: "Stable Diffusion 3",
}

# (factor, offset) of the conversions between the ranges that frames are kept in, and what they start from.
_RANGES = {
    (2.0, -1.0): ((0.0, 1.0), "[0, 1] became [-1, 1]"),
    (0.5, 0.5): ((-1.0, 1.0), "[-1, 1] became [0, 1]"),
    (255.0, 0.0): ((0.0, 1.0), "[0, 1] became [0, 255]"),
    (1.0 / 255.0, 0.0): ((0.0, 255.0), "[0, 255] became [0, 1]"),
    (127.5, 127.5): ((-1.0, 1.0), "[-1, 1] became [0, 255]"),
    (1.0 / 127.5, -1.0): ((0.0, 255.0), "[0, 255] became [-1, 1]"),
}


def constant(evidence: Evidence) -> Likeness | None:
    """One side is the same value everywhere; zero is told apart, it has other causes."""
    value = _only_value(evidence.actual, evidence.sample[0])
    if value == 0.0:
        return Likeness(
            "all_zero",
            f"actual is zero in all {evidence.numel} elements",
            "The tensor was allocated and never filled: look for a missing key, or a lora_B that was never trained.",
            0.0,
        )
    if value is not None:
        one = " (1 is what normalisation weights start from)" if value == 1.0 else ""
        return Likeness(
            "constant",
            f"actual is {value:.6g} in all {evidence.numel} elements{one}",
            "A constant is an initial value, not a trained one: the tensor was probably not loaded.",
            0.0,
            {"value": value},
        )
    value = _only_value(evidence.expected, evidence.sample[1])
    if value is not None:
        return Likeness(
            "expected_constant",
            f"expected is {value:.6g} in all {evidence.numel} elements, actual is not",
            "The expected side looks untrained or unfilled: check that it is the side you trust.",
            details={"value": value},
        )
    return None


def nonfinite(evidence: Evidence) -> Likeness | None:
    """NaN or Inf on one side where the other has a number."""
    if evidence.is_finite or all(
        _all_finite(actual) and _all_finite(expected) for actual, expected in evidence.native_pairs()
    ):
        return None
    count, first, last, others, of_actual = 0, -1, -1, 0, 0
    offset = 0
    for x, y in evidence.wide_pairs():
        bad_x, bad_y = ~torch.isfinite(x), ~torch.isfinite(y)
        odd = bad_x ^ bad_y
        here = int(odd.sum())
        if here:
            found = odd.nonzero()[:, 0]
            first = offset + int(found[0]) if first < 0 else first
            last = offset + int(found[-1])
            of_actual += int((odd & bad_x).sum())
        count += here
        others += int(((x != y) & ~bad_x & ~bad_y).sum())
        offset += x.numel()
    if not count:
        return None
    side = "actual" if of_actual else "expected"
    if count == evidence.numel:
        where = "all"
    elif count == 1:
        where = f"at {evidence.place(first)}"
    else:
        run = "one run" if last - first + 1 == count else "places"
        where = f"{run} from {evidence.place(first)} to {evidence.place(last)}"
    rest = "the rest is equal" if not others else f"{others} other elements differ"
    rest = "" if count == evidence.numel else f"; {rest}"
    return Likeness(
        "nan_block",
        f"{count} of {evidence.numel} elements of {side} are NaN or Inf, and finite on the other: {where}{rest}",
        "Look for an overflow in half precision, a division by zero, or a file that is damaged there.",
        details={"count": count, "first": first, "last": last, "other_differences": others},
    )


def sign_flipped(evidence: Evidence) -> Likeness | None:
    """actual = -expected."""
    fit = _try(evidence, lambda expected: -as_wide(expected))
    if fit is None:
        return None
    return Likeness(
        "sign_flipped",
        f"actual is expected with the sign flipped{evidence.how_well(fit)}",
        "A subtraction the wrong way round (noise - sample for sample - noise), or a sign convention of a converter.",
        fit.residual,
    )


def cast(evidence: Evidence) -> Likeness | None:
    """One side is the other, rounded to a narrower floating dtype."""
    if kind_of(evidence.actual.dtype) != "float" or kind_of(evidence.expected.dtype) != "float":
        return None
    reverse = Evidence(evidence.expected, evidence.actual)
    for pair, names in ((evidence, ("actual", "expected")), (reverse, ("expected", "actual"))):
        for narrow in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
            found = _cast_to(pair, narrow, names)
            if found is not None:
                return found
    return None


def _cast_to(evidence: Evidence, narrow: torch.dtype, names: tuple[str, str]) -> Likeness | None:
    if evidence.expected.dtype == narrow:
        return None
    name = dtype_name(narrow)
    fit = evidence.glance(lambda block: block.to(narrow))
    exact = fit.exact and evidence.fit(lambda block: block.to(narrow)).exact
    if not exact and not _within_last_bit(evidence, narrow):
        return None
    how = "exactly" if exact else f"to the last bit of {name} (another rounding)"
    return Likeness(
        f"cast_{name}",
        f"{names[0]} is {names[1]} rounded to {name}, {how}",
        f"Something converted it to {name}: look for a dtype argument, .half() or .bfloat16(), or how it was saved.",
        0.0 if exact else evidence.difference,
        {"dtype": name, "rounded": names[0]},
    )


def _within_last_bit(evidence: Evidence, narrow: torch.dtype) -> bool:
    """Every actual value is one that `narrow` can hold, and next to what rounding gives."""
    x, y = evidence.taken
    # What `narrow` can hold already was not rounded by a cast to it.
    if evidence.numel < 16 or bool((as_wide(y.to(narrow)) == as_wide(y)).all()):
        return False

    def near(actual: torch.Tensor, expected: torch.Tensor) -> bool:
        held = actual.to(narrow)
        if not bool((as_wide(held) == as_wide(actual)).all()):
            return False
        return bool((ulp_distance(held, expected.to(narrow)) <= 1.0).all())

    return near(x, y) and all(near(*pair) for pair in evidence.native_pairs())


def range_mapped(evidence: Evidence) -> Likeness | None:
    """One of the usual conversions between [0, 1], [-1, 1] and [0, 255]."""
    lowest, highest = (float(bound) for bound in torch.aminmax(evidence.sample[1]))
    for (factor, offset), ((low, high), what) in _RANGES.items():
        room = 0.1 * (high - low)  # decoders overshoot a little
        if evidence.moments.n < _ENOUGH_FOR_FACTOR or lowest < low - room or highest > high + room:
            continue
        fit = _try(evidence, _line(evidence, factor, offset))
        if fit is not None:
            return Likeness(
                "range_mapped",
                f"{what}: actual = {_formula(factor, offset)}{evidence.how_well(fit)}",
                "The two sides keep their values in different ranges: normalise or denormalise one of them.",
                fit.residual,
                {"factor": factor, "offset": offset},
            )
    return None


def scaled(evidence: Evidence) -> Likeness | None:
    """actual = factor * expected."""
    if int(torch.count_nonzero(evidence.sample[1])) < _ENOUGH_FOR_FACTOR:
        return None
    factor = _simplest(evidence, evidence.moments.factor, lambda factor: _line(evidence, factor, 0.0))
    fit = None if factor in (0.0, 1.0) else _try(evidence, _line(evidence, factor, 0.0))
    if fit is None:
        return None
    return Likeness(
        "scaled",
        f"actual is expected times {factor:.6g}{factor_story(factor)}{evidence.how_well(fit)}",
        "A scale was applied once too often or not at all: look at alpha / rank of an adapter, "
        "the VAE scaling_factor, or a guidance or attention scale.",
        fit.residual,
        {"factor": factor},
    )


def offset(evidence: Evidence) -> Likeness | None:
    """actual = expected + offset."""
    moments = evidence.moments
    if moments.n < _ENOUGH_FOR_FACTOR:
        return None
    fitted = moments.mean_actual - moments.mean_expected
    shift = _simplest(evidence, fitted, lambda shift: _line(evidence, 1.0, shift))
    fit = None if shift == 0.0 else _try(evidence, _line(evidence, 1.0, shift))
    if fit is None:
        return None
    return Likeness(
        "offset",
        f"actual is expected {_signed(shift)} everywhere{evidence.how_well(fit)}",
        "A constant was added: look for a bias, a shift_factor, or a mean that one side does not subtract.",
        fit.residual,
        {"offset": shift},
    )


def linear(evidence: Evidence) -> Likeness | None:
    """actual = factor * expected + offset, with no familiar pair of figures."""
    moments = evidence.moments
    if moments.n < _ENOUGH_FOR_LINE or abs(moments.correlation) < 0.9:
        return None
    fit = _try(evidence, _line(evidence, moments.slope, moments.intercept))
    if fit is None:
        return None
    return Likeness(
        "range_mapped",
        f"actual = {_formula(moments.slope, moments.intercept)}{evidence.how_well(fit)}",
        "One side is normalised differently: compare the mean and std, or the value range, that each side uses.",
        fit.residual,
        {"factor": moments.slope, "offset": moments.intercept},
    )


def eight_bit(evidence: Evidence) -> Likeness | None:
    """actual went through bytes: its values lie on a grid of 1/255, next to the expected ones."""
    if kind_of(evidence.actual.dtype) != "float" or evidence.numel < 16:
        return None
    x, y = evidence.sample
    for factor, shift, what in ((255.0, 0.0, "[0, 1]"), (127.5, 127.5, "[-1, 1]")):

        def on_grid(values: torch.Tensor, factor: float = factor, shift: float = shift) -> bool:
            levels = values * factor + shift
            return bool(((levels - levels.round()).abs() < 2e-3).all()) and bool((levels.abs() < 256).all())

        def next_to(actual: torch.Tensor, expected: torch.Tensor, factor: float = factor) -> bool:
            return on_grid(actual) and float((actual - expected).abs().amax()) * factor <= 1.01

        if not on_grid(y) and next_to(x, y) and all(next_to(*pair) for pair in evidence.wide_pairs()):
            return Likeness(
                "rounded_8bit",
                f"actual is expected rounded to the 256 levels of a byte, in {what}",
                "One side went through an image, a video or uint8: compare with psnr, or before that.",
                evidence.difference,
                {"levels": 256},
            )
    return None


def factor_story(factor: float) -> str:
    """What a factor may be: `` = 1/4``, `` = 16/3``, or the square of a known VAE scaling factor; else nothing."""
    size = abs(factor)
    for scale, model in _VAE_SCALES.items():
        powers = {1: "", -1: "1 / ", 2: "the square of ", -2: "1 / the square of "}
        for power, words in powers.items():
            if math.isclose(size, scale**power, rel_tol=2e-4):
                return f" ({words}{scale:g}, the VAE scaling_factor of {model})"
    sign = "-" if factor < 0 else ""
    if 0 < size < 1 and round(1 / size) <= 4096 and math.isclose(1 / size, round(1 / size), rel_tol=1e-5):
        return f" = {sign}1/{round(1 / size)}"
    fraction = Fraction(size).limit_denominator(16)
    if fraction.denominator > 1 and math.isclose(size, float(fraction), rel_tol=1e-5):
        return f" = {sign}{fraction}"
    return ""


def _only_value(tensor: torch.Tensor, sample: torch.Tensor) -> float | None:
    """The value of a tensor that has but one, else None."""
    value = float(sample[0])
    if math.isnan(value) or not bool((sample == value).all()):
        return None
    whole = Evidence(tensor, tensor)
    return value if all(bool((x == value).all()) for x, _ in whole.wide_pairs()) else None


def _all_finite(block: torch.Tensor) -> bool:
    """Whether a block certainly holds neither NaN nor Inf, at the price of one sum."""
    if kind_of(block.dtype) != "float":
        return True
    work = block if block.dtype in (torch.float32, torch.float64) else block.to(torch.float32)
    return math.isfinite(float(work.sum()))


def _try(evidence: Evidence, predict: Predict) -> Fit | None:
    """The fit of a prediction over the whole tensor if it is worth a claim; the sample turns most down at once."""
    if not evidence.explains(evidence.glance(predict)):
        return None
    fit = evidence.fit(predict)
    return fit if evidence.explains(fit) else None


def _line(evidence: Evidence, factor: float, offset: float) -> Predict:
    """factor * expected + offset, in the arithmetic in which it was most likely done."""
    dtype = evidence.actual.dtype
    native = dtype == evidence.expected.dtype and kind_of(dtype) == "float" and dtype.itemsize > 1

    def predict(expected: torch.Tensor) -> torch.Tensor:
        line = (expected if native else as_wide(expected)) * factor
        line = line + offset if offset else line
        return line.to(dtype) if kind_of(dtype) == "float" else line

    return predict


def _simplest(evidence: Evidence, fitted: float, line: Callable[[float], Predict]) -> float:
    """The roundest figure that fits the sample as well as the fitted one does."""
    if fitted == 0.0 or not math.isfinite(fitted):
        return 0.0
    size = abs(fitted)
    limit = 1.1 * evidence.glance(line(fitted)).residual
    candidates = [float(Fraction(size).limit_denominator(64)), float(f"{size:.3g}"), float(f"{size:.6g}")]
    if size < 1.0:
        candidates.insert(0, 1.0 / round(1.0 / size))
    for candidate in candidates:
        simple = math.copysign(candidate, fitted)
        if candidate and evidence.glance(line(simple)).residual <= limit:
            return simple
    return fitted


def _formula(factor: float, offset: float) -> str:
    return f"{factor:.6g} * expected {_signed(offset)}" if offset else f"{factor:.6g} * expected"


def _signed(value: float) -> str:
    return f"{'-' if value < 0 else '+'} {abs(value):.6g}"
