"""Two weight sets compared tensor by tensor: what changed, what was rounded, what is on one side only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.checkpoints.same_bytes import Span, equal_spans
from pytest_genmodel.checkpoints.weights import WeightSet

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison


@dataclass
class WeightDifference:
    """What comparing one component's weights came to; names are the candidate's own.

    `changed` holds for each tensor the figures of its difference; what the difference looks like costs more and
    is worked out by `detail` for the tensors that are reported.
    """

    ours: WeightSet
    theirs: WeightSet
    counterparts: dict[str, str] = field(default_factory=dict)
    """The reference's name of each tensor that both have."""
    changed: dict[str, Comparison] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """Number of tensors that both sides have."""
        return len(self.counterparts)

    @property
    def is_empty(self) -> bool:
        """Whether the two hold the same numbers under the same names."""
        return not (self.changed or self.rounded or self.missing or self.extra)

    def worst_first(self) -> list[str]:
        """The changed tensors, the one whose values moved most, relative to their norm, first."""
        return sorted(self.changed, key=lambda name: -(self.changed[name].relative_difference or 0.0))

    def detail(self, name: str) -> Comparison:
        """Compare the changed tensor `name` again, in detail: with what the difference looks like."""
        from pytest_genmodel.tensors import bitwise, compare

        actual, expected = self.ours.read(name), self.theirs.read(self.counterparts[name])
        return compare(*_of_one_dtype(actual, expected), bitwise)


def compare_components(ours: Component, theirs: Component) -> WeightDifference:
    """Compare the stored weights of two components; a wrapper's prefixes in the names are looked through.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    a, b = ours.weights, theirs.weights
    difference = WeightDifference(a, b)
    if tuple(p.resolve() for p in a.files) == tuple(p.resolve() for p in b.files):
        difference.counterparts = {name: name for name in a.tensors}
        return difference
    left, right = ({unwrapped(name): name for name in weights.tensors} for weights in (a, b))
    difference.counterparts = {left[name]: right[name] for name in right if name in left}
    difference.missing = [right[name] for name in right if name not in left]
    difference.extra = [left[name] for name in left if name not in right]
    for name, counterpart in _of_other_bytes(difference):
        _compare_tensor(difference, name, counterpart)
    return difference


def _of_other_bytes(difference: WeightDifference) -> Iterator[tuple[str, str]]:
    """Leave out the pairs of one dtype and shape whose bytes are equal: read at the speed of the disk, no torch."""
    alike: dict[tuple[str, str], tuple[Span, Span]] = {}
    a, b = difference.ours, difference.theirs
    for ours, theirs in difference.counterparts.items():
        one, other = a.tensors[ours], b.tensors[theirs]
        spans = a.span(ours), b.span(theirs)
        if (one.dtype, one.shape) == (other.dtype, other.shape) and spans[0] and spans[1]:
            alike[ours, theirs] = (spans[0], spans[1])
    verdicts = equal_spans(list(alike.values()))
    equal = {pair for pair, same in zip(alike, verdicts, strict=True) if same}
    yield from (pair for pair in difference.counterparts.items() if pair not in equal)


def _compare_tensor(difference: WeightDifference, ours: str, theirs: str) -> None:
    import torch

    from pytest_genmodel.tensors import bitwise, compare

    actual, expected = difference.ours.read(ours), difference.theirs.read(theirs)
    if actual.is_floating_point() and not bool(actual.isfinite().all()):
        difference.not_finite.append(ours)
    if actual.shape == expected.shape and _hold_the_same_numbers(actual, expected):
        return
    if actual.shape == expected.shape and torch.equal(actual, expected.to(actual.dtype)):
        difference.rounded[ours] = str(actual.dtype).removeprefix("torch.")
        return
    comparison = compare(*_of_one_dtype(actual, expected), bitwise, in_detail=False)
    if not comparison.passed:
        difference.changed[ours] = comparison


def _hold_the_same_numbers(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the values are equal: a cast lost nothing, or only the sign of zeros differs (an optimizer at rate 0
    makes +0.0 of -0.0). float64 holds every narrower float exactly.
    """
    import torch

    if actual.dtype == expected.dtype:
        return torch.equal(actual, expected)
    if not (actual.is_floating_point() and expected.is_floating_point()):
        return False
    return torch.equal(actual.to(torch.float64), expected.to(torch.float64))


def _of_one_dtype(actual: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    if actual.dtype == expected.dtype:
        return actual, expected
    return actual.to(torch.float64), expected.to(torch.float64)
