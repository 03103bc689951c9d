"""Are two components the same, at rest or live? Settled by their tensors, never by a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import WeightDifference, compare_components, ties_matter
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.pipelines.loading import stored_ties
from pytest_genmodel.pipelines.residents import residents

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison


def compare_stored(ours: Component, theirs: Component, progress: Progress = silent) -> WeightDifference:
    """Compare the stored weights of two components; which name of a tied tensor is stored makes no difference.

    Ties are asked of the candidate's class and configuration (the reference's, where the candidate has none), and
    only where the stored names differ: what stores the same names is compared without torch.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    model = ours if ours.config_path or not theirs.config_path else theirs
    asked = bool(model.class_name) and ties_matter(ours, theirs)
    return compare_components(ours, theirs, stored_ties(model) if asked else (), progress)


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that two live models do not share: its values differ, or one side lacks it (`pair` None).

    `pair` is (theirs, ours), expected last; `distance` is the relative difference, infinite where none can be
    given.
    """

    name: str
    what: str
    pair: tuple[torch.Tensor, torch.Tensor] | None = None
    distance: float = math.inf

    def detail(self) -> Comparison | None:
        """Compare the values in detail, with what the difference looks like; None where one side lacks it."""
        from pytest_genmodel.tensors import bitwise, compare

        return compare(*self.pair, bitwise) if self.pair is not None else None

    def figures(self) -> Comparison:
        """Compare the values, without what the difference looks like; only of a tensor that both sides have."""
        from pytest_genmodel.tensors import bitwise, compare

        assert self.pair is not None
        return compare(*self.pair, bitwise, in_detail=False)


def tensor_differences(ours: Any, theirs: Any) -> list[TensorDifference]:
    """Compare every parameter and buffer of two modules bit by bit; non-persistent buffers too."""
    from pytest_genmodel.tensors import bitwise, compare

    left, right = residents(ours), residents(theirs)
    found = [TensorDifference(name, "is missing") for name in left if name not in right]
    found += [TensorDifference(name, "is new") for name in right if name not in left]
    for name in left.keys() & right.keys():
        a, b = left[name].tensor, right[name].tensor
        if a.is_meta or b.is_meta:
            found.append(TensorDifference(name, "has no memory (meta device)"))
        elif not (comparison := compare(b, a, bitwise, in_detail=False)).passed:
            figure = comparison.relative_difference
            unsure = figure is None or math.isnan(figure) or comparison.problem == "nonfinite"
            distance = math.inf if unsure or figure is None else figure
            found.append(TensorDifference(name, "has other values", (b, a), distance))
    return sorted(found, key=lambda difference: difference.name)
