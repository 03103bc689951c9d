"""Tensors in a dtype, with the values that break comparisons."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    import torch

FLOATS = ("float32", "float16", "bfloat16", "float64")


def tensors(
    dtype: str | st.SearchStrategy[str] = "float32",
    *,
    shape: tuple[int, ...] | None = None,
    special: bool = True,
    most: int = 64,
) -> st.SearchStrategy[torch.Tensor]:
    """Tensors of a floating dtype, on the CPU.

    Args:
        dtype: a name as torch has it, or a strategy of such names.
        shape: the shape; drawn where it is not given (up to 4 axes, up to `most` elements, zero included).
        special: whether NaN, infinities, -0.0, subnormals and the largest value of the dtype are among the values.
        most: the largest number of elements.
    """
    return _tensors(dtype, shape, special, most)


@st.composite
def _tensors(
    draw: st.DrawFn,
    dtype: str | st.SearchStrategy[str],
    shape: tuple[int, ...] | None,
    special: bool,
    most: int,
) -> torch.Tensor:
    import torch

    name = dtype if isinstance(dtype, str) else draw(dtype)
    kind = getattr(torch, name)
    given = shape if shape is not None else draw(_shapes(most))
    values: st.SearchStrategy[float] = st.floats(-100, 100, width=32)
    if special:
        limits = torch.finfo(kind)
        values |= st.sampled_from(
            [0.0, -0.0, float("nan"), float("inf"), float("-inf"), limits.max, limits.tiny, limits.tiny / 2]
        )
    count = prod(given)
    drawn = draw(st.lists(values, min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.float64).to(kind).reshape(given)


def _shapes(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    sides = st.lists(st.integers(0, 8), max_size=4)
    return sides.map(tuple).filter(lambda shape: prod(shape) <= most)
