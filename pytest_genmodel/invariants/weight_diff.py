"""Two weight sets compared tensor by tensor: what changed, what was rounded, what is on one side only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.checkpoints.weights import WeightSet, torch_dtype

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison


@dataclass
class WeightDifference:
    """What comparing one component's weights came to; names are the candidate's own."""

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


def compare_components(ours: Component, theirs: Component) -> WeightDifference:
    """Compare the stored weights of two components; a wrapper's prefixes in the names are looked through.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    difference = WeightDifference()
    a, b = ours.weights, theirs.weights
    if a.files == b.files or tuple(p.resolve() for p in a.files) == tuple(p.resolve() for p in b.files):
        difference.compared = len(a.tensors)
        return difference
    names = {unwrapped(name): name for name in a.tensors}
    for name in b.tensors:
        if name not in names:
            difference.missing.append(name)
            continue
        difference.compared += 1
        _compare_tensor(difference, a, names[name], b, name)
    difference.extra = [name for bare, name in names.items() if bare not in b.tensors]
    return difference


def _compare_tensor(difference: WeightDifference, a: WeightSet, ours: str, b: WeightSet, theirs: str) -> None:
    import torch

    from pytest_genmodel.tensors import bitwise, compare

    actual, expected = a.read(ours), b.read(theirs)
    if actual.is_floating_point() and not bool(actual.isfinite().all()):
        difference.not_finite.append(ours)
    if actual.shape == expected.shape and actual.dtype != expected.dtype:
        narrow = torch_dtype(a.tensors[ours].dtype)
        if _equal_after_cast(actual, expected):
            return
        if torch.equal(actual, expected.to(narrow)):
            difference.rounded[ours] = str(narrow).removeprefix("torch.")
            return
        actual, expected = actual.to(torch.float64), expected.to(torch.float64)
    comparison = compare(actual, expected, bitwise)
    if not comparison.passed:
        difference.changed[ours] = comparison


def _equal_after_cast(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the two hold the same numbers: float64 holds every narrower float exactly."""
    import torch

    if not (actual.is_floating_point() and expected.is_floating_point()):
        return False
    return torch.equal(actual.to(torch.float64), expected.to(torch.float64))
