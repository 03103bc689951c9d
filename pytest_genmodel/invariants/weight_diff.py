"""Two weight sets compared tensor by tensor: what changed, what was rounded, what is on one side only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.names import unwrapped
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
    compared: int = 0
    changed: dict[str, Comparison] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

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

        actual, expected = _of_one_dtype(self.ours.read(name), self.theirs.read(unwrapped(name)))
        return compare(actual, expected, bitwise)


def compare_components(ours: Component, theirs: Component) -> WeightDifference:
    """Compare the stored weights of two components; a wrapper's prefixes in the names are looked through.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    a, b = ours.weights, theirs.weights
    difference = WeightDifference(a, b)
    if tuple(p.resolve() for p in a.files) == tuple(p.resolve() for p in b.files):
        difference.compared = len(a.tensors)
        return difference
    names = {unwrapped(name): name for name in a.tensors}
    for name in b.tensors:
        if name not in names:
            difference.missing.append(name)
            continue
        difference.compared += 1
        _compare_tensor(difference, names[name], name)
    difference.extra = [name for bare, name in names.items() if bare not in b.tensors]
    return difference


def _compare_tensor(difference: WeightDifference, ours: str, theirs: str) -> None:
    import torch

    from pytest_genmodel.tensors import bitwise, compare

    actual, expected = difference.ours.read(ours), difference.theirs.read(theirs)
    if actual.is_floating_point() and not bool(actual.isfinite().all()):
        difference.not_finite.append(ours)
    if actual.shape == expected.shape and actual.dtype != expected.dtype:
        if _hold_the_same_numbers(actual, expected):
            return
        if torch.equal(actual, expected.to(actual.dtype)):
            difference.rounded[ours] = str(actual.dtype).removeprefix("torch.")
            return
    comparison = compare(*_of_one_dtype(actual, expected), bitwise, in_detail=False)
    if not comparison.passed:
        difference.changed[ours] = comparison


def _hold_the_same_numbers(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether a cast lost nothing: float64 holds every narrower float exactly."""
    import torch

    if not (actual.is_floating_point() and expected.is_floating_point()):
        return False
    return torch.equal(actual.to(torch.float64), expected.to(torch.float64))


def _of_one_dtype(actual: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    if actual.dtype == expected.dtype:
        return actual, expected
    return actual.to(torch.float64), expected.to(torch.float64)
