"""The result of comparing two tensors: the verdict and the figures behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from .likeness_evidence import Likeness
from .message import describe
from .tolerance import Tolerance

Problem = Literal["shape", "meta", "dtype", "device", "nonfinite", "values"]


@dataclass(frozen=True, slots=True)
class Worst:
    """The element furthest beyond the tolerance: its index, both values, and |actual - expected|."""

    index: tuple[int, ...]
    actual: complex
    expected: complex
    difference: float


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """NaN and Inf of one side: counts, and the index of the first of each (None where there is none)."""

    nan: int = 0
    inf: int = 0
    first_nan: tuple[int, ...] | None = None
    first_inf: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of 2 to 4096 places: mismatches and the largest absolute difference at each place."""

    name: str
    size: int
    mismatched: tuple[int, ...]
    max_abs: tuple[float, ...]

    @property
    def differing(self) -> tuple[tuple[int, int], ...]:
        """The places with mismatches, as ranges (first, last), both included."""
        return tuple(_ranges([place for place, count in enumerate(self.mismatched) if count]))

    @property
    def equal(self) -> tuple[tuple[int, int], ...]:
        """The places without mismatches, as ranges (first, last), both included."""
        return tuple(_ranges([place for place, count in enumerate(self.mismatched) if not count]))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found. Pairs are (actual, expected). Figures are None where they were not computed.

    Every figure but the counts is over the pairs in which both elements are finite.
    """

    passed: bool
    tolerance: Tolerance
    problem: Problem | None
    """None if passed; else the first that applies of shape, meta, dtype, device, nonfinite, values."""
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    devices: tuple[str, str]
    names: tuple[str, ...] = ()
    numel: int = 0
    differing: int | None = None
    """Elements whose values differ at all, within the tolerance or beyond it."""
    mismatched: int | None = None
    """Elements beyond the tolerance; under psnr and cosine, which judge the whole, elements that differ."""
    max_abs: float | None = None
    max_rel: float | None = None
    """Largest |actual - expected| / |expected| over the elements where expected is not 0."""
    rms: float | None = None
    max_ulp: int | None = None
    psnr: float | None = None
    """In dB, for the peak of the tolerance (1.0 unless it is a psnr tolerance); infinite if equal."""
    cosine: float | None = None
    relative_norm_change: float | None = None
    """| ||actual|| - ||expected|| | / ||expected||: sees a uniform rescale that the default of bfloat16 lets pass."""
    relative_difference: float | None = None
    """||actual - expected|| / ||expected||."""
    worst: Worst | None = None
    nonfinite: tuple[Nonfinite, Nonfinite] = (Nonfinite(), Nonfinite())
    would_pass: tuple[Tolerance, ...] = ()
    """Tolerances that would just have passed, each by itself; the nearest in kind first."""
    axes: tuple[Axis, ...] = ()
    likeness: Likeness | None = None
    note: str | None = None

    @property
    def minimum(self) -> Tolerance | None:
        """The least change to the tolerance that would have made it pass; None if no figure does."""
        return self.would_pass[0] if self.would_pass else None

    def __str__(self) -> str:
        return describe(self)

    def to_json(self) -> dict[str, Any]:
        """Everything but the per-place figures of the axes, as JSON values (non-finite numbers as text)."""
        value = {field.name: _json(getattr(self, field.name)) for field in fields(self)}
        value["axes"] = [
            {"name": axis.name, "size": axis.size, "differing": _json(axis.differing)} for axis in self.axes
        ]
        return value


def unravel(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The index of a flat (row-major) place."""
    index: list[int] = []
    for size in reversed(shape):
        place, position = divmod(place, size)
        index.append(position)
    return tuple(reversed(index))


def _ranges(places: Sequence[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for place in places:
        if ranges and ranges[-1][1] == place - 1:
            ranges[-1] = (ranges[-1][0], place)
        else:
            ranges.append((place, place))
    return ranges


def _json(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, complex):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if is_dataclass(value):
        return {field.name: _json(getattr(value, field.name)) for field in fields(value)}
    return value
