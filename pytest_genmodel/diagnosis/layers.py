"""Where in a model weights drifted: the largest relative difference of each layer, in the model's order."""

from __future__ import annotations

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.difference.drift import figure


def drift_by_layer(difference: WeightDifference) -> dict[str, float]:
    """The layers that hold a changed tensor, each with its largest relative difference.

    A layer is a name up to its first number (`transformer_blocks.3`), or up to its last dot where it has none.
    """
    drift: dict[str, float] = {}
    for name in difference.counterparts:
        comparison = difference.changed.get(name)
        moved = figure(comparison.relative_difference, comparison) if comparison is not None else None
        if moved is not None:
            layer = layer_of(name)
            drift[layer] = max(drift.get(layer, 0.0), moved)
    return drift


def layer_of(name: str) -> str:
    """The layer that the tensor `name` belongs to."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts[:-1]) if part.isdecimal()), None)
    return ".".join(parts[: number + 1] if number is not None else parts[:-1]) or name
