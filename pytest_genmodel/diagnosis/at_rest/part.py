"""What the checks look at: one set of weights, and what the one pass over its values came to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.progress import Progress
from pytest_genmodel.checkpoints.statistics import Statistics, statistics
from pytest_genmodel.checkpoints.weights import WeightSet


@dataclass
class Part:
    """One component under examination, or the adapter for it (`own_weights`).

    `told` are the tensors of which a check has said what is wrong: the checks after it leave them out, so that one
    fault gives one finding. Reading the weights may raise DamagedFileError.
    """

    name: str
    component: Component | None
    progress: Progress
    own_weights: WeightSet | None = None
    told: set[str] = field(default_factory=set)

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are an adapter's; `component` is then what it is for, where that is known."""
        return self.own_weights is not None

    @property
    def weights(self) -> WeightSet:
        """The tensors at rest."""
        if self.own_weights is not None:
            return self.own_weights
        assert self.component is not None
        return self.component.weights

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Figures of every tensor that has values; reads each byte of the weights once."""
        return statistics(self.weights, self.filled, self.progress)

    @property
    def filled(self) -> list[str]:
        """The tensors that have values at all."""
        return [name for name, tensor in self.weights.tensors.items() if math.prod(tensor.shape)]

    def is_float(self, name: str) -> bool:
        """Whether the tensor holds floating-point numbers."""
        return self.weights.tensors[name].dtype.lstrip("B").startswith(("F", "C"))

    def is_matrix(self, name: str) -> bool:
        """Whether the tensor has two dimensions at least in which it is more than one element long."""
        return sum(size > 1 for size in self.weights.tensors[name].shape) >= 2
