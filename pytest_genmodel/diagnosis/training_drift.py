"""How far training moved the weights: what was written against what went in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.checkpoints.products import more_than_products, products
from pytest_genmodel.checkpoints.weight_set import WeightSet, torch_dtype
from pytest_genmodel.diagnosis.at_rest.adapter import up_factors
from pytest_genmodel.pipelines.equality import compare_stored

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison

ADAPTER = "adapter"
"""What the up factors of a LoRA are called beside the components."""


@dataclass(frozen=True)
class Drift:
    """How far values moved, in the L2 norm of their differences.

    `values` counts the values of the tensors that moved, `moved` those that are others now; `norm` is the norm of
    the same tensors before, `relative` the distance by the norm (of an adapter: of what it adds, by the norm of the
    weights that it is added to; None where that is not known). `spacing` is the largest relative distance between
    neighbours in the finer of the dtypes before and after; 0 for what starts at zero. `written_as` names the dtype of
    the file where it is coarser than what was given.
    """

    distance: float
    values: int
    moved: int
    norm: float
    relative: float | None
    spacing: float
    written_as: str | None = None
    finite: bool = True

    @property
    def step(self) -> float:
        """How far a value moved, root mean square: about the rate, after one step of Adam."""
        return self.distance / math.sqrt(self.values) if self.values else 0.0


def together(parts: Iterable[Drift]) -> Drift:
    """The drift of several parts as one."""
    seen = list(parts)
    distance = math.hypot(*(part.distance for part in seen)) if seen else 0.0
    norm = math.hypot(*(part.norm for part in seen)) if seen else 0.0
    relative = seen[0].relative if len(seen) == 1 else distance / norm if norm else None if seen else 0.0
    return Drift(
        distance,
        sum(part.values for part in seen),
        sum(part.moved for part in seen),
        norm,
        relative,
        max((part.spacing for part in seen), default=0.0),
        next((part.written_as for part in seen if part.written_as), None),
        all(part.finite for part in seen),
    )


def training_drift(before: Checkpoint, written: Checkpoint, after: Checkpoint) -> dict[str, Drift]:
    """The drift of every component that moved; of an adapter, which leaves them alone, that of its up factors.

    Args:
        before: what went in.
        written: what the trainer wrote.
        after: the same, laid over what went in.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    if written.adapter is not None:
        drift = _adapter_drift(written.adapter, before)
        return {ADAPTER: drift} if drift.moved else {}
    found = {}
    for name, part in before.components.items():
        trained = after.components.get(name)
        if part.has_weights and trained is not None and trained.has_weights:
            drift = _component_drift(compare_stored(trained, part))
            if drift.moved:
                found[name] = drift
    return found


def _component_drift(difference: WeightDifference) -> Drift:
    comparisons = dict(difference.changed)
    comparisons |= {name: difference.detail(name) for name in difference.rounded}
    parts = [_tensor_drift(difference, name, comparison) for name, comparison in comparisons.items()]
    parts += [
        Drift(math.inf, math.prod(tensor.shape), math.prod(tensor.shape), 0.0, None, 0.0)
        for name in difference.missing
        if (tensor := difference.theirs.tensors[name])
    ]
    return together(parts)


def _tensor_drift(difference: WeightDifference, name: str, comparison: Comparison) -> Drift:
    ours, theirs = difference.counterparts[name]
    stored, given = difference.ours.tensors[ours].dtype, difference.theirs.tensors[theirs].dtype
    coarser = _spacing(stored) > _spacing(given)
    written_as = str(torch_dtype(stored)).removeprefix("torch.") if coarser else None
    spacing = min(
        _spacing(given), _spacing(stored)
    )  # what is written wider shows steps that rounding would hide
    finite = name not in difference.not_finite
    values, relative = comparison.numel, comparison.relative_difference
    if comparison.rms is None or not math.isfinite(comparison.rms):
        return Drift(math.inf, values, values, 0.0, None, spacing, written_as, finite)
    distance = comparison.rms * math.sqrt(values)
    norm = distance / relative if relative and math.isfinite(relative) else 0.0
    return Drift(distance, values, comparison.differing or 0, norm, relative, spacing, written_as, finite)


def _spacing(stored: str) -> float:
    import torch

    dtype = torch_dtype(stored)
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0


def _adapter_drift(adapter: Adapter, before: Checkpoint) -> Drift:
    weights = adapter.weights
    squares, values, moved, finite = 0.0, 0, 0, True
    for name in up_factors(weights.tensors):
        factor = weights.read(name).double()
        squares += float(factor.square().sum())
        values, moved = values + factor.numel(), moved + int(factor.count_nonzero())
        finite = finite and bool(factor.isfinite().all())
    distance = math.sqrt(squares) if finite else math.inf
    return Drift(distance, values, moved, 0.0, _added(adapter, before), 0.0, finite=finite)


def _added(adapter: Adapter, before: Checkpoint) -> float | None:
    """The norm of what the adapter adds, by that of the weights that it is added to; None where that is not known."""
    if more_than_products(adapter):
        return None
    layers = {
        unwrapped(name): (part.weights, name)
        for part in before.components.values()
        if part.has_weights
        for name in part.weights.tensors
    }
    pairs = products(adapter)
    added = onto = 0.0
    for module in pairs.names:
        layer = layers.get(f"{module}.weight")
        if layer is None:
            return None
        product = pairs.read(module)
        # ||B A||^2 = trace((B^T B)(A A^T)): rank x rank, whatever the layer's size
        gram = (product.up.T @ product.up) * (product.down @ product.down.T)
        added += product.scale**2 * float(gram.sum())
        onto += _square_norm(*layer)
    return math.sqrt(max(added, 0.0) / onto) if onto else None


def _square_norm(weights: WeightSet, name: str) -> float:
    return float(weights.read(name).double().square().sum())
