"""Two shapes that differ: would a squeeze, a transpose, a cut or a broadcast make the tensors equal?"""

from __future__ import annotations

from itertools import permutations

import torch

from .blocks import same_bits

# 6! orders of axes are tried at most; video tensors have 5.
_MOST_AXES = 6


def relate_shapes(actual: torch.Tensor, expected: torch.Tensor, names: tuple[str, ...] = ()) -> str | None:
    """One sentence that says how two tensors of different shape relate, or None.

    A claim about values has been carried out and found equal bit by bit; without one, it names the sizes that differ.
    """
    readable = not (actual.is_meta or expected.is_meta) and actual.dtype == expected.dtype
    if readable and actual.numel() and expected.numel():
        same_size = actual.numel() == expected.numel()
        claim = _same_size(actual, expected) if same_size else _cut(actual, expected, names)
        claim = claim or _broadcast(actual, expected)
        if claim is not None:
            return claim
    return _sizes(actual, expected, names)


def _same_size(actual: torch.Tensor, expected: torch.Tensor) -> str | None:
    if _same(actual.reshape(expected.shape), expected):
        if _without_ones(actual) == _without_ones(expected):
            return "the values are equal: the shapes differ only in axes of size 1 (squeeze or unsqueeze)"
        return f"the values are equal after .reshape{tuple(expected.shape)}"
    if actual.dim() != expected.dim():
        actual, expected = actual.squeeze(), expected.squeeze()
    if actual.dim() == expected.dim() <= _MOST_AXES:
        for order in permutations(range(actual.dim())):
            if tuple(actual.shape[axis] for axis in order) == tuple(expected.shape):
                turned = actual.permute(order)
                if _same(turned, expected):
                    how = ".T" if order == (1, 0) else f".permute{order}"
                    return f"the values are equal after a transpose: actual{how} is expected"
    return None


def _cut(actual: torch.Tensor, expected: torch.Tensor, names: tuple[str, ...]) -> str | None:
    """One axis is shorter, and the rest of it is the same from the first or to the last place."""
    if actual.dim() != expected.dim():
        return None
    other = [axis for axis in range(actual.dim()) if actual.shape[axis] != expected.shape[axis]]
    if len(other) != 1:
        return None
    axis = other[0]
    name = names[axis] if names else f"axis {axis}"
    short, long = sorted((actual, expected), key=lambda side: side.shape[axis])
    side = "actual" if short is actual else "expected"
    few, many = short.shape[axis], long.shape[axis]
    for start, which in ((0, "first"), (many - few, "last")):
        if _same(short, long.narrow(axis, start, few)):
            return f"{side} is the {which} {few} of {many} along {name}; the rest is missing"
    return None


def _sizes(actual: torch.Tensor, expected: torch.Tensor, names: tuple[str, ...]) -> str | None:
    if actual.dim() != expected.dim():
        return f"{actual.dim()} axes against {expected.dim()}"
    differ = [
        f"{names[axis] if names else f'axis {axis}'} ({first} against {second})"
        for axis, (first, second) in enumerate(zip(actual.shape, expected.shape, strict=True))
        if first != second
    ]
    return f"the sizes differ along {', '.join(differ)}"


def _broadcast(actual: torch.Tensor, expected: torch.Tensor) -> str | None:
    small, large = sorted((actual, expected), key=lambda side: side.numel())
    try:
        spread = small.expand(large.shape)
    except RuntimeError:
        return None
    if _same(spread, large):
        side = "actual" if small is actual else "expected"
        return f"the values are equal if {side} is broadcast to {tuple(large.shape)}"
    return None


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    # A glance at the corners spares a full pass over strided memory for what is plainly different.
    corner = tuple(slice(0, 2) for _ in range(first.dim()))
    return same_bits(first[corner], second[corner]) and same_bits(first, second)


def _without_ones(tensor: torch.Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]
