"""Reading a checkpoint as the gate does at rest, to the last tensor."""

from __future__ import annotations

from math import prod
from pathlib import Path

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.digest import component_digest
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import size_of
from pytest_genmodel.checkpoints.weights import WeightSet


def open_and_read_everything(path: Path) -> int:
    """Open `path`, look at everything that is known of it, and read every tensor; gives the bytes of them all.

    Raises:
        GenmodelError: it cannot be read. Any other exception is a fault of the package.
    """
    checkpoint = open_checkpoint(path, "fuzz")
    list(checkpoint.scripts), list(checkpoint.unread), dict(checkpoint.foreign)
    total = sum(map(read_component, checkpoint.components.values()))
    if checkpoint.adapter is not None:
        total += read_weights(checkpoint.adapter.weights)
    return total


def read_component(component: Component) -> int:
    """Read configuration and weights of one component."""
    list(component.config), list(component.code_asked_for), list(component.second_sets)
    list(component.unread_files), component.lone_shard
    if not component.has_weights:
        component_digest(component)
        return 0
    total = read_weights(component.weights)
    component.index_disagreement  # noqa: B018
    component_digest(component)
    return total


def read_weights(weights: WeightSet) -> int:
    """Read every tensor; no tensor is larger than the files it lies in."""
    on_disk = sum(path.stat().st_size for path in set(weights.files))
    total = 0
    for name, stored in weights.tensors.items():
        size = prod(stored.shape) * DTYPE_BITS[stored.dtype] // 8
        assert size <= on_disk, (name, stored)
        tensor = weights.read(name)
        assert tensor.numel() * tensor.element_size() == size, (name, stored, tensor.shape)
        spans = weights.spans(name)
        assert spans is None or size_of(spans) == size, (name, stored, spans)
        total += size
    return total
