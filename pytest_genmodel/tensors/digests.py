"""Names for content: a digest of one tensor, and one of many that does not depend on order or layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def digest(tensor: torch.Tensor) -> str:
    """The sha256 (64 hex digits) of a tensor's dtype, shape and values in row-major order.

    Any dense dtype and shape, any device, contiguous or not: equal digests mean equal under `bitwise`. At most one
    block of 2^18 elements is copied at a time. Raises BadInputError for meta, sparse and quantized tensors.
    """
    from .blocks import blocks, raw_bytes
    from .dtypes import dtype_name
    from .inputs import as_tensor, require_values

    tensor = as_tensor(tensor, "digest()")
    require_values(tensor, "digest()")
    state = hashlib.sha256(f"{dtype_name(tensor.dtype)} {tuple(tensor.shape)}\n".encode())
    if tensor.numel():
        for block in blocks(tuple(tensor.shape)):
            state.update(raw_bytes(block.of(tensor)))
    return state.hexdigest()


def combine(items: Iterable[tuple[str, str]]) -> str:
    """One sha256 (64 hex digits) for many ``(name, digest)`` pairs: their order, and so sharding, does not matter."""
    state = hashlib.sha256()
    for name, value in sorted(items):
        # Lengths first: no name can be confused with the end of another.
        state.update(f"{len(name.encode())}:".encode() + name.encode() + f"={len(value)}:{value}\n".encode())
    return state.hexdigest()
