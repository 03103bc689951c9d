"""Whatever a test holds (tensor, array, image, number, nested list) as a plain, dense, detached torch tensor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from pytest_genmodel.errors import BadInputError

from .dtypes import kind_of


def as_tensor(value: Any, what: str) -> torch.Tensor:
    """`value` as a tensor that shares its memory where possible; `what` names it in errors.

    Accepts torch tensors, numpy arrays (ml_dtypes' bfloat16 and float8 too), PIL images (height, width, channel;
    uint8), Python numbers (bool, int64, float64, complex128) and nested lists of them. Anything else, ragged lists,
    and tensors that are sparse, quantized or a wrapper around other tensors raise BadInputError.
    """
    if isinstance(value, torch.Tensor):
        return _plain(value, what)
    if is_number(value) or is_nested_numbers(value):
        return _from_numbers(value, what)
    if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        return _from_numpy(value, what)
    raise BadInputError(
        f"{what}: cannot compare a {type(value).__name__}; give a tensor, an array, an image, a number "
        "or a nested list of numbers"
    )


def as_pair(actual: Any, expected: Any, labels: tuple[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides as tensors. A Python number or list has no dtype of its own: it takes that of the other side."""
    first, second = as_tensor(actual, labels[0]), as_tensor(expected, labels[1])
    if first.dtype != second.dtype and is_plain(actual) != is_plain(expected):
        if is_plain(actual):
            first = _take_dtype(first, second.dtype)
        else:
            second = _take_dtype(second, first.dtype)
    return first, second


def require_values(tensor: torch.Tensor, what: str) -> None:
    """Raise BadInputError for a tensor on the meta device, which has a shape and no values."""
    if tensor.is_meta:
        raise BadInputError(f"{what}: the tensor is on the meta device, so it has no values")


def is_number(value: object) -> bool:
    """A Python number (numpy scalars know their dtype and count as arrays)."""
    return isinstance(value, (bool, int, float, complex)) and not hasattr(value, "dtype")


def is_nested_numbers(value: object) -> bool:
    """A list or tuple of numbers, at any depth; an empty one too."""
    return isinstance(value, (list, tuple)) and all(
        is_number(item) or is_nested_numbers(item) for item in value
    )


def is_plain(value: object) -> bool:
    """A number or a nested list of numbers: a value without a dtype."""
    return is_number(value) or is_nested_numbers(value)


def _plain(tensor: torch.Tensor, what: str) -> torch.Tensor:
    if tensor.is_quantized:
        raise BadInputError(f"{what}: the tensor is quantized; compare its .dequantize()")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise BadInputError(f"{what}: the tensor is not dense ({tensor.layout}); compare its .to_dense()")
    if hasattr(tensor, "__tensor_flatten__") or type(tensor).__name__ == "DTensor":
        advice = ".full_tensor()" if type(tensor).__name__ == "DTensor" else ".dequantize()"
        raise BadInputError(f"{what}: a {type(tensor).__name__} wraps other tensors; compare its {advice}")
    # Lazy conjugation and negation are not in the memory, and memory is what gets compared.
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.detach() if tensor.requires_grad or type(tensor) is not torch.Tensor else tensor


def _from_numbers(value: object, what: str) -> torch.Tensor:
    try:
        tensor = torch.tensor(value)
        kind = kind_of(tensor.dtype)
        wide = {"float": torch.float64, "complex": torch.complex128}.get(kind)
        # torch reads Python floats as float32: convert from the source, not from the rounded value.
        return tensor if wide is None else torch.tensor(value, dtype=wide)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise BadInputError(f"{what}: not a rectangular list of numbers ({error})") from None


def _from_numpy(value: Any, what: str) -> torch.Tensor:
    import numpy

    array = numpy.asarray(value)
    if array.dtype.name.startswith(("bfloat16", "float8")):  # ml_dtypes, as JAX has them
        dtype = getattr(torch, array.dtype.name, None)
        if isinstance(dtype, torch.dtype):
            return torch.from_numpy(array.view(f"i{array.dtype.itemsize}").copy()).view(dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing here writes
            return torch.from_numpy(array)
    except TypeError:
        raise BadInputError(
            f"{what}: an array of dtype {array.dtype} does not hold numbers torch knows"
        ) from None


def _take_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast a Python value, unless that would lose more than rounding (0.5 as an integer, 300 as a uint8)."""
    if kind_of(dtype) == "opaque":
        return tensor
    cast = tensor.to(dtype)
    rounding_only = kind_of(dtype) in ("float", "complex") and kind_of(tensor.dtype) != "complex"
    return cast if rounding_only or bool((cast.to(tensor.dtype) == tensor).all()) else tensor


def check_names(names: Sequence[str] | None, shape: tuple[int, ...], what: str) -> tuple[str, ...]:
    """The axis names as a tuple, empty for None; BadInputError unless there is one text per axis."""
    if names is None:
        return ()
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise BadInputError(
            f"names: give one text per axis, such as ('frame', 'height', 'width'), got {names!r}"
        )
    if len(names) != len(shape):
        raise BadInputError(
            f"names: {what} has {len(shape)} axes, shape {shape}, but {len(names)} names were given: "
            + ", ".join(names)
        )
    return tuple(names)
