"""What the likeness patterns look at: two tensors that differ, a sample of them, and a way to check a claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch

from .blocks import pairs
from .counting import count_nonzero
from .dtypes import as_bits, as_wide, epsilon
from .sums import Sums

# A first look at this many places turns nearly every wrong hypothesis down.
SAMPLE = 4096
# Statistics of larger tensors rest on this many places: the error of a correlation is then 1e-3.
STATISTICS_SAMPLE = 2**20
# Up to here every element is read to confirm a rearrangement; beyond, STATISTICS_SAMPLE places are.
FULL_CHECK = 2**24
# float64 copies of so many elements stay in the cache.
_PART = 2**16


@dataclass(frozen=True)
class Likeness:
    """What a difference looks like: ``{kind, text, hint}`` and how well that explains it.

    `kind` is stable and meant for machines; `text` and `hint` are one sentence each.
    `residual` is the part of the actual side that the claim leaves unexplained, ||actual - claim|| / ||actual||:
    0.0 when the claim reproduces it exactly, None for kinds that rest on statistics (`details` holds them, with n).
    """

    kind: str
    text: str
    hint: str
    residual: float | None = None
    details: dict[str, float | int | str] = field(default_factory=dict, hash=False)


Predict = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Fit:
    """How far a prediction is from the actual side: relative size, largest distance, elements not equal."""

    residual: float
    max_abs: float
    unequal: int

    @property
    def exact(self) -> bool:
        """Whether the prediction reproduces every element."""
        return self.unequal == 0


@dataclass(frozen=True)
class Moments:
    """Statistics over a stated number of places in which both sides are finite."""

    n: int
    mean_actual: float
    mean_expected: float
    std_actual: float
    std_expected: float
    correlation: float
    """Between actual and expected; 0 if one of them is constant."""
    drift: float
    """Correlation of the difference with expected."""
    kurtosis: float
    """Of the difference: 1.8 for uniform, 3 for normal."""
    slope: float
    intercept: float
    """Least-squares line actual = slope * expected + intercept."""
    factor: float
    """Least-squares factor actual = factor * expected."""


class Evidence:
    """Two dense tensors of one shape, at least two elements each, on any device."""

    def __init__(
        self,
        actual: torch.Tensor,
        expected: torch.Tensor,
        names: tuple[str, ...] = (),
        sums: Sums | None = None,
    ) -> None:
        self.sums = sums
        """The totals of the pair, where they are known and no NaN or Inf on one side meets another value."""
        self.is_finite = sums is not None and sums.numel == actual.numel()
        """Known to hold neither NaN nor Inf."""
        if actual.is_complex() and expected.is_complex():
            # Real and imaginary parts as one more axis: every pattern then works on real numbers.
            actual, expected = torch.view_as_real(actual), torch.view_as_real(expected)
            names = (*names, "part") if names else ()
        self.actual, self.expected = actual, expected
        self.shape = tuple(actual.shape)
        self.numel = actual.numel()
        self._named = bool(names)
        self.names = names or tuple(f"axis {axis}" for axis in range(len(self.shape)))

    @cached_property
    def places(self) -> torch.Tensor:
        """Flat places of the small sample: all of a small tensor."""
        return spread_places(self.numel, SAMPLE)

    @cached_property
    def is_mask(self) -> bool:
        """Whether expected has at most two values, as far as the small sample tells."""
        values = self.sample[1]
        return bool(((values == values.amin()) | (values == values.amax())).all())

    @cached_property
    def taken(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides at `places`, in their own dtypes."""
        return take(self.actual, self.places), take(self.expected, self.places)

    @cached_property
    def sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides at `places`, in float64."""
        return as_wide(self.taken[0]), as_wide(self.taken[1])

    def native_pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Both sides block by block, flat, in their own dtypes."""
        return pairs(self.actual, self.expected, _PART)

    def wide_pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Both sides block by block, flat, in float64."""
        return ((as_wide(actual), as_wide(expected)) for actual, expected in self.native_pairs())

    def place(self, flat: int) -> str:
        """A flat place as an index, for texts: ``[0, 12]``, or ``[frame 0, height 12]`` with names."""
        index: list[int] = []
        for size in reversed(self.shape):
            flat, position = divmod(flat, size)
            index.append(position)
        index.reverse()
        if not self._named:
            return str(index)
        return "[" + ", ".join(f"{name} {at}" for name, at in zip(self.names, index, strict=True)) + "]"

    @cached_property
    def difference(self) -> float:
        """||actual - expected|| / ||actual||, which a claim must beat (over finite pairs)."""
        if self.sums is not None:
            return self.sums.difference_of_actual
        return self.fit(lambda expected: expected).residual

    @cached_property
    def moments(self) -> Moments:
        """Means, deviations and correlations, over at most 2^20 places."""
        return _moments(self.actual, self.expected)

    def fit(self, predict: Predict) -> Fit:
        """Apply `predict` to every block of the expected side and measure it against the actual side."""
        return self.fit_parts(
            (as_wide(actual), as_wide(predict(expected))) for actual, expected in self.native_pairs()
        )

    def fit_parts(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Fit:
        """Measure predictions (actual, predicted) that come in wide parts."""
        square, total, largest, unequal = 0.0, 0.0, 0.0, 0
        for actual, predicted in parts:
            part = _fit(actual, predicted)
            square, total = square + part[0], total + part[1]
            largest, unequal = max(largest, part[2]), unequal + part[3]
        return Fit(_relative(square, total), largest, unequal)

    def glance(self, predict: Predict) -> Fit:
        """The same on the small sample only."""
        return measure_fit(self.sample[0], as_wide(predict(self.taken[1])))

    @property
    def rounding(self) -> float:
        """The relative step of the coarser dtype; 0 for integers."""
        return max(epsilon(self.actual.dtype), epsilon(self.expected.dtype))

    def how_well(self, fit: Fit) -> str:
        """How a claim's text ends."""
        if fit.exact:
            return ", exactly"
        return (
            ", up to rounding"
            if fit.residual <= self.rounding
            else f", up to {percent(fit.residual)} of its size"
        )

    def explains(self, fit: Fit) -> bool:
        """Whether a claim is worth making.

        It is when it is exact; or leaves 5 % of the spread of the actual side and a tenth of the difference; or
        leaves no more than rounding in the coarser dtype does, and clearly less than the difference.
        """
        if fit.exact:
            return True
        if not fit.residual <= 0.3:
            return False  # spares most callers the moments
        moments = self.moments
        # A large common mean would make any two tensors look alike: what counts is the spread around it.
        if moments.std_actual == 0.0:
            return False
        left = fit.residual * math.hypot(moments.mean_actual, moments.std_actual) / moments.std_actual
        if left <= 0.05 and fit.residual <= 0.1 * self.difference:
            return True
        return left <= 0.3 and fit.residual <= min(2.0 * self.rounding, 0.3 * self.difference)


def measure_fit(actual: torch.Tensor, predicted: torch.Tensor) -> Fit:
    """A :class:`Fit` of two wide tensors."""
    square, total, largest, unequal = _fit(actual, predicted)
    return Fit(_relative(square, total), largest, unequal)


def percent(share: float) -> str:
    """A share as a percentage of three digits."""
    return f"{100.0 * share:.3g}%"


def spread_places(numel: int, most: int, first: int = 0, last: int | None = None) -> torch.Tensor:
    """At most `most` flat places, ascending, spread evenly and in step with no axis; the same ones every time.

    `first` and `last` (exclusive) ask for a part of them.
    """
    if numel <= most:
        return torch.arange(first, numel if last is None else last)
    # One place in each of `most` equal stretches; steps of the golden ratio never fall into the rhythm of a row.
    step = (math.sqrt(5.0) - 1.0) / 2.0
    number = torch.arange(first, most if last is None else last, dtype=torch.float64)
    return ((number + number * step % 1.0) * (numel / most)).to(torch.int64).clamp_(max=numel - 1)


def take(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The elements at flat (row-major) places, as a CPU tensor of the same dtype."""
    bits = torch.take(as_bits(tensor), places.to(tensor.device)).cpu()
    return bits.view(tensor.dtype)


def unequal(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Where two real tensors of one dtype differ, NaN being equal to NaN: 1 there, else 0, in float32 or float64."""
    differ = torch.empty(first.shape, dtype=torch.float64 if first.dtype == torch.float64 else torch.float32)
    torch.ne(first, second, out=differ)
    if not math.isfinite(float(first.sum())):
        differ.masked_fill_(torch.isnan(first) & torch.isnan(second), 0.0)
    return differ


def _fit(actual: torch.Tensor, predicted: torch.Tensor) -> tuple[float, float, float, int]:
    """Squares of the rest and of the actual side, largest distance, elements not equal."""
    if actual.numel() == 0:
        return 0.0, 0.0, 0.0, 0
    rest = (actual - predicted).abs()
    if not math.isfinite(float(rest.sum())):
        finite = torch.isfinite(actual) & torch.isfinite(predicted)
        odd = (unequal(actual, predicted) > 0.0) & ~finite
        wrong = int(odd.sum()) + int((rest.masked_fill(~finite, 0.0) != 0.0).sum())
        # An unmatched NaN or Inf cannot be explained by any claim about values.
        if bool(odd.any()):
            return math.inf, 1.0, math.inf, wrong
        rest, actual = rest.masked_fill(~finite, 0.0), actual.masked_fill(~finite, 0.0)
    actual, rest = actual.reshape(-1), rest.reshape(-1)
    return (
        float(torch.dot(rest, rest)),
        float(torch.dot(actual, actual)),
        float(rest.amax()),
        count_nonzero(rest, torch.empty_like(rest)),
    )


def _relative(square: float, total: float) -> float:
    if square == 0.0:
        return 0.0
    return math.inf if total == 0.0 else math.sqrt(square / total)


def _moments(actual: torch.Tensor, expected: torch.Tensor) -> Moments:
    def parts() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The places, a few at a time: their float64 copies stay in the cache."""
        count = min(actual.numel(), STATISTICS_SAMPLE)
        for first in range(0, count, _PART):
            places = spread_places(actual.numel(), STATISTICS_SAMPLE, first, min(first + _PART, count))
            x, y = as_wide(take(actual, places)), as_wide(take(expected, places))
            if not math.isfinite(float((x - y).sum())):
                finite = torch.isfinite(x) & torch.isfinite(y)
                x, y = x[finite], y[finite]
            yield x, y

    n, total_x, total_y, square_y, product = 0, 0.0, 0.0, 0.0, 0.0
    for x, y in parts():
        n += x.numel()
        total_x, total_y = total_x + float(x.sum()), total_y + float(y.sum())
        square_y, product = square_y + float(torch.dot(y, y)), product + float(torch.dot(x, y))
    if n < 2:
        return Moments(n, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    mean_x, mean_y = total_x / n, total_y / n
    sums = [0.0] * 6
    for x, y in parts():
        u, v = x.sub_(mean_x), y.sub_(mean_y)
        d = u - v
        fourth = d * d
        pairs_of = ((u, u), (v, v), (d, d), (u, v), (d, v), (fourth, fourth))
        sums = [total + float(torch.dot(*pair)) for total, pair in zip(sums, pairs_of, strict=True)]
    var_x, var_y, var_d, covariance, drift, fourth_moment = (total / n for total in sums)
    slope = covariance / var_y if var_y else 0.0
    return Moments(
        n=n,
        mean_actual=mean_x,
        mean_expected=mean_y,
        std_actual=math.sqrt(var_x),
        std_expected=math.sqrt(var_y),
        correlation=_correlation(covariance, var_x, var_y),
        drift=_correlation(drift, var_d, var_y),
        kurtosis=fourth_moment / var_d**2 if var_d else 0.0,
        slope=slope,
        intercept=mean_x - slope * mean_y,
        factor=product / square_y if square_y else 0.0,
    )


def _correlation(covariance: float, first: float, second: float) -> float:
    scale = math.sqrt(first) * math.sqrt(second)
    return covariance / scale if scale else 0.0
