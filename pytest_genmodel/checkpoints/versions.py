"""Names that a library spells otherwise from one version to the next, and maps itself while loading."""

from __future__ import annotations

from collections.abc import Collection

from pytest_genmodel.checkpoints.mapped import MappedWeights, Rows
from pytest_genmodel.checkpoints.weights import WeightSet

PREFIXES = ("text_model.", "vision_model.")
"""transformers 5.6 took these wrappers out of its CLIP models; files of either kind load in either version."""


def spelled_as(known: Collection[str], weights: WeightSet) -> WeightSet:
    """Give `weights` under the spelling of the names `known`, where one such prefix is all that tells them apart."""
    for prefix in PREFIXES:
        with_it, without = f"{prefix}encoder.", "encoder."
        if any(name.startswith(with_it) for name in weights.tensors):
            renamed = {name.removeprefix(prefix): Rows(name) for name in weights.tensors}
        elif any(name.startswith(with_it) for name in known) and any(
            name.startswith(without) for name in weights.tensors
        ):
            bare = {name.removeprefix(prefix) for name in known if name.startswith(prefix)}
            renamed = {f"{prefix}{name}" if name in bare else name: Rows(name) for name in weights.tensors}
        else:
            continue
        better = len(renamed.keys() & set(known)) > len(weights.tensors.keys() & set(known))
        if better and len(renamed) == len(weights.tensors):
            return MappedWeights(weights, renamed)
    return weights
