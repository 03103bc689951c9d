"""Fused projections stored beside the ones that they are made of: the same weights twice, not another model."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_genmodel.checkpoints.weights import WeightSet

_PARTS = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""What diffusers' `fuse_qkv_projections` joins, along the first dimension."""


def fused_copies(weights: WeightSet, names: Iterable[str]) -> set[str]:
    """Those of `names` that hold what their parts, stored in the same file, hold one after the other.

    A fused projection that differs from its parts is none: which of the two is used depends on the program.
    """
    return {name for name in names if _is_copy(weights, name)}


def _is_copy(weights: WeightSet, name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    parts = [f"{parent}.{part}.{leaf}" for part in _PARTS.get(layer, ())]
    if not parts or not all(part in weights.tensors for part in parts):
        return False
    import torch

    return torch.equal(weights.read(name), torch.cat([weights.read(part) for part in parts]))
