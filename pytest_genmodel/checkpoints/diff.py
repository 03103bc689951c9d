"""Two weight sets compared tensor by tensor: what changed, what was rounded, what is on one side only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.meter import Meter
from pytest_genmodel.checkpoints.names import is_adapter_name, unwrapped
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.same_bytes import first_differences
from pytest_genmodel.checkpoints.spans import Spans
from pytest_genmodel.checkpoints.versions import spelled_as
from pytest_genmodel.checkpoints.weight_set import WeightSet, torch_dtype
from pytest_genmodel.checkpoints.windows import bytes_of

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison


Glances = Callable[[Sequence[str], Sequence[str]], "tuple[torch.Tensor, torch.Tensor]"]
"""Gives for tensors of one shape, by the names of `counterparts`, one row each: (ours, theirs)."""


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
    glances: Glances | None = None
    """Where the reference's values cannot be read: what stands for the contents of our tensors and of theirs."""

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

    def read(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a tensor that both have: (ours, theirs), each in the shape and dtype in which it is stored.

        Raises:
            DamagedFileError: a file cannot be read.
        """
        ours, theirs = self.counterparts[name]
        return self.ours.read(ours), self.theirs.read(theirs)

    def detail(self, name: str) -> Comparison:
        """Compare the changed tensor `name` again, in detail: with what the difference looks like."""
        from pytest_genmodel.tensors import bitwise, compare

        return compare(*_of_one_dtype(*self.read(name)), bitwise)


def _distance(comparison: Comparison) -> float:
    figure = comparison.relative_difference
    if figure is None or comparison.nonfinite[0].nan or comparison.nonfinite[0].inf:
        return math.inf
    return math.inf if math.isnan(figure) else figure


def ties_matter(ours: Component, theirs: Component) -> bool:
    """Whether a tensor is stored under a name that the other side does not store, LoRA factors left out.

    Only then can ties change what `compare_components` finds, and working them out is not free.
    """
    weights = theirs.weights
    left, right = (
        {unwrapped(name) for name in side.tensors}
        for side in (spelled_as(weights.tensors, ours.weights), weights)
    )
    return any(not is_adapter_name(name) for name in left ^ right)


def compare_components(
    ours: Component,
    theirs: Component,
    ties: Sequence[tuple[str, ...]] = (),
    progress: Progress = silent,
) -> WeightDifference:
    """Compare the stored weights of two components; a wrapper's prefixes in the names are looked through.

    Args:
        ours, theirs: the candidate's component and the reference's.
        ties: groups of names that the model gives to one tensor. A file may store any of them, or several: a
            library loads a name that is stored from the tensor of that name, and another from its group. Both
            sides are compared as they are loaded, so that two stored members that differ are a difference.
        progress: told how many bytes of the candidate's side are settled.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    difference = matched(ours, theirs, ties)
    if _files(difference.ours) == _files(difference.theirs):
        return difference
    meter = Meter(progress, f"comparing {ours.name or 'weights'}", _bytes_to_compare(difference))
    _compare(difference, meter)
    meter.finish()
    return difference


def matched(ours: Component, theirs: Component, ties: Sequence[tuple[str, ...]] = ()) -> WeightDifference:
    """Say which tensors of two components are to be compared, and what is on one side only; no value is read.

    Args and errors are those of `compare_components`.
    """
    b = theirs.weights
    a = spelled_as(b.tensors, ours.weights)
    difference = WeightDifference(a, b)
    if _files(a) == _files(b):
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
    return difference


def _files(weights: WeightSet) -> tuple[Path, ...]:
    return tuple(path.resolve() for path in weights.files)


def _bytes_to_compare(difference: WeightDifference) -> int:
    return sum(bytes_of(difference.ours, ours) for ours, _ in difference.counterparts.values())


def _stored_as(name: str, stored: dict[str, str], group: tuple[str, ...]) -> str | None:
    """The name under which a side stores the tensor `name`: its own, else that of a tensor it is tied to."""
    return next((stored[member] for member in (name, *group) if member in stored), None)


def _compare(difference: WeightDifference, meter: Meter) -> None:
    """Settle equal bytes at the speed of reading them, without torch; look at the values of the others."""
    alike: dict[str, tuple[Spans, Spans]] = {}
    for name, (one, other) in difference.counterparts.items():
        a, b = difference.ours.spans(one), difference.theirs.spans(other)
        ours, theirs = difference.ours.tensors[one], difference.theirs.tensors[other]
        same_kind = (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        if same_kind and a is not None and b is not None:
            alike[name] = (a, b)
    places = first_differences(list(alike.values()), on_bytes=meter.add)
    equal_until = dict(zip(alike, places, strict=True))
    rest = {name: equal_until.get(name) or 0 for name in difference.counterparts}
    for name, place in equal_until.items():
        if place is None:
            del rest[name]
    if rest:
        _compare_values(difference, rest, meter)


def _compare_values(difference: WeightDifference, equal_until: dict[str, int], meter: Meter) -> None:
    """Look at the values of tensors, whose bytes are equal up to the place given."""
    from pytest_genmodel.checkpoints.values import Pair, compare_values

    ours, theirs = difference.ours, difference.theirs
    pairs = []
    for name, place in equal_until.items():
        one, other = difference.counterparts[name]
        pairs.append(Pair(ours.tensors[one], theirs.tensors[other], place))
    outcomes = compare_values(ours, theirs, pairs, meter)
    for name, pair, outcome in zip(equal_until, pairs, outcomes, strict=True):
        if not outcome.finite:
            difference.not_finite.append(name)
        if outcome.rounded:
            difference.rounded[name] = str(torch_dtype(pair.ours.dtype)).removeprefix("torch.")
        if outcome.comparison is not None:
            difference.changed[name] = outcome.comparison


def hold_the_same_numbers(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the values are equal: a cast lost nothing, or only the sign of zeros differs (an optimizer at rate 0
    makes +0.0 of -0.0). NaN equals NaN.
    """
    from pytest_genmodel.tensors.streamed import same_numbers
    from pytest_genmodel.tensors.threads import one_thread

    with one_thread():
        return same_numbers(actual, expected)


def _of_one_dtype(actual: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    if actual.dtype == expected.dtype:
        return actual, expected
    return actual.to(torch.float64), expected.to(torch.float64)
