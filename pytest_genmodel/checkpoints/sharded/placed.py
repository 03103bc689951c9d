"""Tensors of which it is known where in which files their bytes lie, in one stretch or in several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import Span, SpanReader, Spans, size_of
from pytest_genmodel.checkpoints.weights import StoredTensor, WeightSet, torch_dtype

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

    @property
    def bytes_needed(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


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
    """Read a tensor into memory of its own.

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
    if at.stride is None:
        return flat.reshape(at.shape)
    return flat.as_strided(at.shape, at.stride).contiguous()


def cut(spans: Iterable[Span], begin: int, end: int) -> Spans:
    """The bytes `begin` to `end`, counted along `spans` as if they were one stretch."""
    found, position = [], 0
    for span in spans:
        first, last = max(begin - position, 0), min(end - position, span.size)
        if first < last:
            found.append(Span(span.path, span.begin + first, span.begin + last))
        position += span.size
    return tuple(found)


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


def spelled(torch_name: str) -> str | None:
    """The safetensors name of torch's dtype `torch_name` ("bfloat16"); None where safetensors has none for it."""
    return _NAMES.get(torch_name)


_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
