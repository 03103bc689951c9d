"""A tensor block by block, and the fastest yes: are all bits the same?

2^18 elements (1 MiB of float32) is the measured optimum: two sides and a work buffer stay near the L2 cache, and no
temporary is ever as large as the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product

import torch

from .dtypes import as_bits, kind_of
from .memcmp import MEMCMP
from .threads import THREADS, in_threads

BLOCK = 2**18
RUN = 4
"""Blocks that a thread takes at a time; figures are added up within these first, in any number of threads."""

_WORTH_A_THREAD = 4 * BLOCK
# Bytes that one thread compares at a time.
_PIECE = 2**22


@dataclass(frozen=True)
class Block:
    """A part of a tensor: how to index it, the flat (row-major) place of its first element, and its shape."""

    index: tuple[int | slice, ...]
    offset: int
    shape: tuple[int, ...]

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """This block of `tensor`, contiguous and on the CPU; a view where that costs nothing."""
        return tensor[self.index].cpu().contiguous()


def blocks(shape: tuple[int, ...], limit: int = BLOCK) -> Iterator[Block]:
    """Cut a shape, in row-major order, into blocks of at most `limit` elements (a single row may be cut too)."""
    if math.prod(shape) <= limit:
        yield Block((), 0, shape)
        return
    axis = next(k for k in range(len(shape)) if math.prod(shape[k + 1 :]) <= limit)
    inner = math.prod(shape[axis + 1 :])
    step = max(1, limit // inner)
    offset = 0
    for leading in product(*(range(size) for size in shape[:axis])):
        for start in range(0, shape[axis], step):
            rows = min(step, shape[axis] - start)
            yield Block((*leading, slice(start, start + rows)), offset, (rows, *shape[axis + 1 :]))
            offset += rows * inner


def runs(shape: tuple[int, ...], limit: int = BLOCK, length: int = RUN) -> Iterator[list[Block]]:
    """The blocks of a shape, in tasks of at most `length`."""
    cut = blocks(shape, limit)
    while run := list(islice(cut, length)):
        yield run


def threads_for(tensor: torch.Tensor) -> int:
    """How many threads a pass over a tensor is worth: one, until starting another costs nothing beside it."""
    return THREADS if tensor.numel() > _WORTH_A_THREAD else 1


def flat(actual: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors of one shape as one row where both allow it: a flat cut has no short blocks, whatever the shape."""
    if actual.is_contiguous() and expected.is_contiguous():
        return actual.view(-1), expected.view(-1)
    return actual, expected


def pairs(
    actual: torch.Tensor, expected: torch.Tensor, limit: int = BLOCK
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The blocks of two tensors of one shape, flat and side by side."""
    actual, expected = flat(actual, expected)
    for block in blocks(tuple(actual.shape), limit):
        yield block.of(actual).view(-1), block.of(expected).view(-1)


def same_storage(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors of one shape and dtype are the same memory, read in the same order."""
    return (
        actual.data_ptr() == expected.data_ptr()
        and actual.stride() == expected.stride()
        and actual.device == expected.device
    )


def same_bits(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits. No temporaries; stops at a difference."""
    if actual.numel() == 0 or same_storage(actual, expected):
        return True
    on_cpu = actual.device.type == "cpu" and expected.device.type == "cpu"
    if on_cpu and actual.is_contiguous() and expected.is_contiguous():
        return same_memory(actual, expected)
    if actual.device == expected.device and not on_cpu and kind_of(actual.dtype) != "opaque":
        return torch.equal(as_bits(actual), as_bits(expected))
    return all(same_memory(*pair) for pair in pairs(actual, expected))


def same_memory(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two contiguous CPU tensors of one size and dtype hold the same bytes."""
    size = actual.numel() * actual.element_size()
    if MEMCMP is None:
        return torch.equal(actual.view(-1).view(torch.uint8), expected.view(-1).view(torch.uint8))
    if size <= 2 * _PIECE:
        return MEMCMP(actual.data_ptr(), expected.data_ptr(), size) == 0
    return _same_pieces(MEMCMP, actual.data_ptr(), expected.data_ptr(), size)


def _same_pieces(memcmp: Callable[[int, int, int], int], first: int, second: int, size: int) -> bool:
    """Compare by pieces, in threads: memcmp lets another run."""

    def same(offset: int) -> bool:
        return memcmp(first + offset, second + offset, min(_PIECE, size - offset)) == 0

    # What differs, differs in the beginning most of the time: no thread is started.
    return same(0) and all(in_threads(same, range(_PIECE, size, _PIECE)))


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    flat = tensor.view(-1)
    if flat.stride() != (1,):  # one element of an expanded tensor: contiguous, and of stride 0
        flat = flat.as_strided(flat.shape, (1,))
    return flat.view(torch.uint8).numpy().data
