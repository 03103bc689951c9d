"""Tensors of which it is known where in which files their bytes lie, in one stretch or in several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import SpanReader, Spans, size_of
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet, torch_dtype

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Placed:
    """A tensor's dtype (as safetensors spells it), its shape, and where its bytes lie.

    `stride` (in elements) is None where the spans, one after the other, are the elements in row-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    spans: Spans
    stride: tuple[int, ...] | None = None


class PlacedWeights(WeightSet):
    """A weight set over files of any kind, by the places of its tensors."""

    def __init__(
        self,
        files: tuple[Path, ...],
        placed: Mapping[str, Placed],
        metadata: Mapping[str, str] | None = None,
        unexplained: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.files = files
        self.metadata = metadata or {}
        self.unexplained = tuple(unexplained)
        self._placed = placed
        self.tensors = {
            name: StoredTensor(name, at.dtype, at.shape, at.spans[0].path if at.spans else files[0])
            for name, at in placed.items()
        }

    def spans(self, name: str) -> Spans | None:
        """Where the bytes of `name` lie; None where they are not in row-major order."""
        at = self._placed[name]
        return at.spans if at.stride is None else None

    def read(self, name: str) -> torch.Tensor:
        """Read the bytes of `name` into memory of its own."""
        return read_placed(self._placed[name])


def read_placed(at: Placed) -> torch.Tensor:
    """Read a tensor into memory of its own; of a sub-byte dtype, which torch cannot hold, the raw bytes.

    Raises:
        DamagedFileError: a file has become shorter.
    """
    import torch

    dtype = torch_dtype(at.dtype)
    buffer = bytearray(size_of(at.spans))
    if not buffer or 0 in at.shape:
        return torch.empty(at.shape, dtype=dtype)
    with SpanReader() as reader:
        reader.read(at.spans, 0, memoryview(buffer))
    flat = torch.frombuffer(buffer, dtype=dtype)
    if DTYPE_BITS[at.dtype] < 8:
        return flat
    if at.stride is None:
        return flat.reshape(at.shape)
    return flat.as_strided(at.shape, at.stride).contiguous()


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor whose elements lie in row-major order."""
    strides, step = [], 1
    for axis in reversed(shape):
        strides.append(step)
        step *= max(axis, 1)
    return tuple(reversed(strides))


def is_row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether elements of these strides lie in row-major order; axes of one element have no say."""
    return 0 in shape or all(
        own == step for axis, own, step in zip(shape, stride, row_major(shape), strict=True) if axis != 1
    )
