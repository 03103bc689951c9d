"""Hypothesis strategies: tensors of every dtype and of shapes that go wrong."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=60, deadline=None, derandomize=True)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
EIGHT_BIT = [torch.float8_e4m3fn, torch.float8_e5m2]
INTEGERS = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
COMPLEX = [torch.complex64, torch.complex128]
EVERY = [*FLOATS, *EIGHT_BIT, *INTEGERS, *COMPLEX, torch.bool]


def shapes(least: int = 0, most: int = 5, dims: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(least, most), max_size=dims).map(tuple)


def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """A tensor of normal values, or of small integers."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).to(dtype)
    if dtype in INTEGERS:
        return torch.randint(0, 100, shape, generator=generator).to(dtype)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if dtype.is_complex:
        return torch.complex(values, torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    return values.to(dtype)


@st.composite
def tensors(
    build: st.DrawFn,
    dtypes: list[torch.dtype] = EVERY,
    shape: st.SearchStrategy[tuple[int, ...]] | None = None,
) -> torch.Tensor:
    size = build(shapes() if shape is None else shape)
    return draw(size, build(st.sampled_from(dtypes)), build(st.integers(0, 10**6)))
