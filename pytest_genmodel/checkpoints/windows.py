"""Stored tensors as flat blocks of torch, read into buffers that belong to the thread and are used again."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import SpanReader, Spans, size_of
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet, torch_dtype
from pytest_genmodel.tensors.threads import PerThread

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors.blocks import Block

BLOCKS_OF_TASK = 32
"""Blocks that a thread takes at a time; a large tensor is shared between threads."""


_Owned = TypeVar("_Owned")


@dataclass(frozen=True)
class Part:
    """Elements `begin` to `end` (exclusive; None for the last) of a tensor."""

    begin: int
    end: int | None


def is_packed(stored: StoredTensor) -> bool:
    """Whether several values share a byte, so that only the bytes can be read."""
    return DTYPE_BITS.get(stored.dtype, 8) < 8


def bytes_of(weights: WeightSet, name: str) -> int:
    """Size of a stored tensor, as far as its spans or its dtype tell."""
    spans = weights.spans(name)
    return weights.tensors[name].nbytes if spans is None else size_of(spans)


class Source(Protocol):
    """A tensor that gives its blocks, flat, on the CPU; each is good until the next."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the blocks."""
        ...

    @property
    def numel(self) -> int:
        """Elements; bytes of a packed dtype."""
        ...

    @property
    def rows(self) -> tuple[int, ...] | None:
        """The shape along which blocks must be cut; None if any flat stretch will do."""
        ...

    def block(self, block: Block) -> torch.Tensor:
        """Give one block."""
        ...


@dataclass(frozen=True)
class _Streamed:
    dtype: torch.dtype
    spans: Spans
    reader: SpanReader
    buffer: tuple[memoryview, torch.Tensor]
    rows: tuple[int, ...] | None = None

    @property
    def numel(self) -> int:
        return size_of(self.spans) // self.dtype.itemsize

    def block(self, block: Block) -> torch.Tensor:
        view, values = self.buffer
        count = math.prod(block.shape)
        begin, size = block.offset * self.dtype.itemsize, count * self.dtype.itemsize
        self.reader.read(self.spans, begin, view[:size])
        return values[:count]


@dataclass(frozen=True)
class _Held:
    tensor: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def numel(self) -> int:
        return self.tensor.numel()

    @property
    def rows(self) -> tuple[int, ...] | None:
        return None if self.tensor.is_contiguous() else tuple(self.tensor.shape)

    def block(self, block: Block) -> torch.Tensor:
        if self.rows is not None:
            return block.of(self.tensor).view(-1)
        return self.tensor.view(-1)[block.offset : block.offset + math.prod(block.shape)]


class Windows:
    """Opens the tensors of a job; any number of threads may read, each with buffers of its own."""

    def __init__(self, reader: SpanReader) -> None:
        from pytest_genmodel.tensors.blocks import BLOCK

        self.size = BLOCK
        self._reader = reader
        self._owned: PerThread[dict[Hashable, Any]] = PerThread(dict)

    def open(self, weights: WeightSet, name: str, side: int = 0) -> Source:
        """Give the tensor `name`; a thread may use one of each `side` at a time.

        Without spans the tensor is read whole (or mapped, where the file allows it).
        """
        spans = weights.spans(name)
        if spans is None:
            return _Held(weights.read(name))
        dtype = torch_dtype(weights.tensors[name].dtype)
        return _Streamed(dtype, spans, self._reader, self._buffer(dtype, side))

    def own(self, key: Hashable, make: Callable[[], _Owned]) -> _Owned:
        """What this thread keeps under `key`; made when it is first asked for."""
        owned = self._owned.get()
        if key not in owned:
            owned[key] = make()
        kept: _Owned = owned[key]
        return kept

    def _buffer(self, dtype: torch.dtype, side: int) -> tuple[memoryview, torch.Tensor]:
        import torch

        memory = self.own(("buffer", dtype, side), lambda: bytearray(self.size * dtype.itemsize))
        return memoryview(memory), torch.frombuffer(memory, dtype=dtype)

    def parts(self, weights: WeightSet, name: str, *others: tuple[WeightSet, str]) -> Iterator[Part]:
        """Cut a tensor into parts for several threads; one part where any side can only be read whole."""
        spans = weights.spans(name)
        if spans is None or any(other.spans(of) is None for other, of in others):
            yield Part(0, None)
            return
        numel = size_of(spans) // torch_dtype(weights.tensors[name].dtype).itemsize
        step = BLOCKS_OF_TASK * self.size
        for begin in range(0, numel, step):
            yield Part(begin, min(begin + step, numel))

    def cut(self, part: Part, *sources: Source) -> Iterator[Block]:
        """The blocks of a part, such that every one of the sources can give them."""
        from pytest_genmodel.tensors.blocks import Block, blocks

        rows = next((source.rows for source in sources if source.rows is not None), None)
        if rows is not None:
            yield from blocks(rows, self.size)
            return
        end = sources[0].numel if part.end is None else part.end
        for begin in range(part.begin, end, self.size):
            count = min(self.size, end - begin)
            yield Block((slice(begin, begin + count),), begin, (count,))
