"""A glance at tensors at rest: a few hundred values each, read from where they lie, whatever the tensor's size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import SpanReader
from pytest_genmodel.checkpoints.weights import WeightSet, torch_dtype

if TYPE_CHECKING:
    import torch

_PLACES, _WIDTH = 8, 256
"""How many stretches of a tensor are looked at, and how many values each is long."""


class Windows:
    """Reads stretches of one weight set's tensors as float64; close it (a context manager)."""

    def __init__(self, weights: WeightSet) -> None:
        self._weights = weights
        self._reader = SpanReader()

    def __enter__(self) -> Windows:
        self._reader.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.__exit__(*error)

    def numel(self, name: str) -> int:
        """Number of values of the tensor."""
        return math.prod(self._weights.tensors[name].shape)

    def read(self, name: str, begin: int, count: int) -> torch.Tensor:
        """Values `begin` to `begin + count` of the tensor, row-major."""
        import torch

        stored, spans = self._weights.tensors[name], self._weights.spans(name)
        bits = DTYPE_BITS.get(stored.dtype, 8)
        if spans is None or bits < 8:
            return self._weights.read(name).reshape(-1)[begin : begin + count].to(torch.float64)
        buffer = bytearray(count * bits // 8)
        self._reader.read(spans, begin * bits // 8, memoryview(buffer))
        return torch.frombuffer(buffer, dtype=torch_dtype(stored.dtype)).to(torch.float64)

    def glance(self, name: str) -> torch.Tensor:
        """The whole of a small tensor, else stretches spread evenly over it; the same places for the same shape."""
        import torch

        numel = self.numel(name)
        if numel <= _PLACES * _WIDTH:
            return self.read(name, 0, numel)
        step = (numel - _WIDTH) // (_PLACES - 1)
        return torch.cat([self.read(name, place * step, _WIDTH) for place in range(_PLACES)])
