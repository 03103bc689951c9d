"""What a torch dtype is made of: its kind, its bits as integers, its precision."""

from __future__ import annotations

from typing import Literal

import torch

Kind = Literal["float", "complex", "int", "bool", "opaque"]

_INTEGERS = frozenset(
    getattr(torch, name)
    for name in ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
    if hasattr(torch, name)
)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def dtype_name(dtype: torch.dtype) -> str:
    """``bfloat16`` rather than ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")


def kind_of(dtype: torch.dtype) -> Kind:
    """The kind of number a dtype holds; "opaque" for packed and bits types, which have bytes but no values here."""
    if dtype in _INTEGERS:
        return "int"
    if dtype == torch.bool:
        return "bool"
    if dtype.is_complex:
        return "complex"
    # Two 4-bit floats share a byte: torch can neither convert nor print them.
    if dtype.is_floating_point and "_x2" not in str(dtype):
        return "float"
    return "opaque"


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as signed integers of the same width; complex numbers get a last axis (real, imaginary)."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_BITS[tensor.dtype.itemsize])


def as_wide(tensor: torch.Tensor) -> torch.Tensor:
    """The values in float64 (complex128 for complex), exact for all but integers beyond 2^53."""
    kind = kind_of(tensor.dtype)
    if kind == "opaque":
        tensor = as_bits(tensor)
    return tensor.to(torch.complex128 if kind == "complex" else torch.float64)


def epsilon(dtype: torch.dtype) -> float:
    """The relative step between neighbouring values: 2^-23 for float32; 0 for what is not floating point."""
    return float(torch.finfo(dtype).eps) if kind_of(dtype) in ("float", "complex") else 0.0


def ulp_distance(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """How many representable values lie between two real tensors of one floating dtype, as float64.

    Both zeros count as one value. The place of a NaN or Inf has no meaning. Exact up to 2^53.
    """
    first, second = (_ordered(as_bits(side)) for side in (actual, expected))
    if actual.dtype.itemsize < 8:
        return first.to(torch.float64).sub_(second).abs_()
    # Two doubles of opposite sign can be further apart than an int64 counts.
    apart = (first - second).abs_().to(torch.float64)
    far = (first < 0) != (second < 0)
    if bool(far.any()):
        apart[far] = first[far].to(torch.float64).abs() + second[far].to(torch.float64).abs()
    return apart


def largest_ulp_distance(actual: torch.Tensor, expected: torch.Tensor) -> int:
    """The largest of the distances that :func:`ulp_distance` gives for finite values, at half the price."""
    if actual.dtype.itemsize == 8:
        return int(ulp_distance(actual, expected).amax())
    first, second = (_ordered(as_bits(side)) for side in (actual, expected))
    # A distance may take all 32 bits: it wraps around, and is read without a sign.
    apart = torch.maximum(first, second).sub_(torch.minimum(first, second))
    return int(apart.bitwise_xor_(torch.iinfo(torch.int32).min).amax()) + 2**31


def _ordered(bits: torch.Tensor) -> torch.Tensor:
    """Sign and magnitude made one count, so that neighbours differ by 1 and -0.0 meets 0.0; of 32 bits at least."""
    largest = torch.iinfo(bits.dtype).max
    wide = torch.int64 if bits.dtype == torch.int64 else torch.int32
    negative = (bits >> (8 * bits.dtype.itemsize - 1)).to(wide)  # 0 or -1
    magnitude = (bits & largest).to(wide)
    return magnitude.bitwise_xor_(negative).sub_(negative)
