"""Two weight sets compared tensor by tensor: what changed, what was rounded, what is on one side only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.names import is_adapter_name, unwrapped
from pytest_genmodel.checkpoints.same_bytes import Span, equal_spans
from pytest_genmodel.checkpoints.weights import WeightSet

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison


_ANY_DISTANCE = 1e38
"""A limit that no difference of two finite float32 tensors of weights exceeds."""


@dataclass
class WeightDifference:
    """What comparing one component's weights came to; names are the candidate's own, where it has one.

    `changed` holds for each tensor the figures of its difference; what the difference looks like costs more and
    is worked out by `detail` for the tensors that are reported.
    """

    ours: WeightSet
    theirs: WeightSet
    counterparts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """For each tensor that both have: the name under which ours stores it, and theirs."""
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
        """The changed tensors, the one whose values moved most, relative to their norm, first.

        Those for which no such figure can be given (another shape, NaN or Inf, a reference of zeros) come before
        all others.
        """
        return sorted(self.changed, key=lambda name: -_distance(self.changed[name]))

    def detail(self, name: str) -> Comparison:
        """Compare the changed tensor `name` again, in detail: with what the difference looks like."""
        from pytest_genmodel.tensors import bitwise, compare

        ours, theirs = self.counterparts[name]
        actual, expected = self.ours.read(ours), self.theirs.read(theirs)
        return compare(*_of_one_dtype(actual, expected), bitwise)


def _distance(comparison: Comparison) -> float:
    figure = comparison.relative_difference
    if figure is None or comparison.nonfinite[0].nan or comparison.nonfinite[0].inf:
        return math.inf
    return math.inf if math.isnan(figure) else figure


def ties_matter(ours: Component, theirs: Component) -> bool:
    """Whether a tensor is stored under a name that the other side does not store, LoRA factors left out.

    Only then can ties change what `compare_components` finds, and working them out is not free.
    """
    left, right = ({unwrapped(name) for name in side.weights.tensors} for side in (ours, theirs))
    return any(not is_adapter_name(name) for name in left ^ right)


def compare_components(
    ours: Component, theirs: Component, ties: Sequence[tuple[str, ...]] = ()
) -> WeightDifference:
    """Compare the stored weights of two components; a wrapper's prefixes in the names are looked through.

    Args:
        ours, theirs: the candidate's component and the reference's.
        ties: groups of names that the model gives to one tensor. A file may store any of them, or several: a
            library loads a name that is stored from the tensor of that name, and another from its group. Both
            sides are compared as they are loaded, so that two stored members that differ are a difference.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    a, b = ours.weights, theirs.weights
    difference = WeightDifference(a, b)
    if tuple(p.resolve() for p in a.files) == tuple(p.resolve() for p in b.files):
        difference.counterparts = {name: (name, name) for name in a.tensors}
        return difference
    left, right = ({unwrapped(name): name for name in weights.tensors} for weights in (a, b))
    difference.counterparts = {left[name]: (left[name], right[name]) for name in right if name in left}
    group_of = {name: group for group in ties for name in group}
    for name in (
        *(name for name in right if name not in left),
        *(name for name in left if name not in right),
    ):
        mine, other = (_stored_as(name, side, group_of.get(name, ())) for side in (left, right))
        if mine is None:
            difference.missing.append(right[name])
        elif other is None:
            difference.extra.append(left[name])
        elif (mine, other) not in difference.counterparts.values():
            difference.counterparts[name if mine in difference.counterparts else mine] = (mine, other)
    for name in _of_other_bytes(difference):
        _compare_tensor(difference, name)
    return difference


def _stored_as(name: str, stored: dict[str, str], group: tuple[str, ...]) -> str | None:
    """The name under which a side stores the tensor `name`: its own, else that of a tensor it is tied to."""
    return next((stored[member] for member in (name, *group) if member in stored), None)


def _of_other_bytes(difference: WeightDifference) -> Iterator[str]:
    """Leave out the pairs of one dtype and shape whose bytes are equal: read at the speed of the disk, no torch."""
    alike: dict[str, tuple[Span, Span]] = {}
    a, b = difference.ours, difference.theirs
    for name, (ours, theirs) in difference.counterparts.items():
        one, other = a.tensors[ours], b.tensors[theirs]
        left, right = a.spans(ours), b.spans(theirs)
        if (one.dtype, one.shape) != (other.dtype, other.shape) or left is None or right is None:
            continue
        if len(left) == len(right) == 1:
            alike[name] = (left[0], right[0])
    verdicts = equal_spans(list(alike.values()))
    equal = {name for name, same in zip(alike, verdicts, strict=True) if same}
    yield from (name for name in difference.counterparts if name not in equal)


def _compare_tensor(difference: WeightDifference, name: str) -> None:
    import torch

    from pytest_genmodel.tensors import bitwise, close, compare

    ours, theirs = difference.counterparts[name]
    actual, expected = difference.ours.read(ours), difference.theirs.read(theirs)
    finite = _is_finite(actual)
    if not finite:
        difference.not_finite.append(name)
    if actual.shape == expected.shape and hold_the_same_numbers(actual, expected):
        return
    if actual.shape == expected.shape and torch.equal(actual, expected.to(actual.dtype)):
        difference.rounded[name] = str(actual.dtype).removeprefix("torch.")
        return
    pair = _of_one_dtype(actual, expected)
    if finite:  # known to differ: under a limit that everything keeps, the figures take one fast pass
        difference.changed[name] = compare(*pair, close(atol=_ANY_DISTANCE), in_detail=False)
        return
    comparison = compare(*pair, bitwise, in_detail=False)
    if not comparison.passed:
        difference.changed[name] = comparison


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds neither NaN nor Inf: its extremes say so, without a mask of its size."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    wide = tensor.float() if tensor.element_size() == 1 else tensor  # torch asks float8 for nothing
    smallest, largest = wide.aminmax()
    return bool(smallest.isfinite()) and bool(largest.isfinite())


def hold_the_same_numbers(actual: torch.Tensor, expected: torch.Tensor) -> bool:
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
