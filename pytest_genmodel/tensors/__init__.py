"""Comparing tensors: how far they may be apart, how far they are, and what the difference looks like.

    from pytest_genmodel.tensors import assert_close, bitwise, close, psnr

    assert_close(actual, expected)                       # the default of the dtype and device
    assert_close(actual, expected, close(atol=1e-3))
    compare(actual, expected, bitwise).likeness          # "expected rounded to bfloat16, exactly"

The names are loaded when first used: importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asserts import TensorMismatchError, assert_close
    from .comparison import Axis, Comparison, Nonfinite, Worst
    from .digests import combine, digest
    from .judge import compare
    from .likeness import Likeness, explain
    from .message import describe
    from .threads import one_thread
    from .tolerance import Tolerance, bitwise, close, cosine, default_tolerance, psnr, ulp

_HOME = {
    "Axis": "comparison",
    "Comparison": "comparison",
    "Likeness": "likeness",
    "Nonfinite": "comparison",
    "TensorMismatchError": "asserts",
    "Tolerance": "tolerance",
    "Worst": "comparison",
    "assert_close": "asserts",
    "bitwise": "tolerance",
    "close": "tolerance",
    "combine": "digests",
    "compare": "judge",
    "cosine": "tolerance",
    "default_tolerance": "tolerance",
    "describe": "message",
    "digest": "digests",
    "explain": "likeness",
    "one_thread": "threads",
    "psnr": "tolerance",
    "ulp": "tolerance",
}

__all__ = [
    "Axis",
    "Comparison",
    "Likeness",
    "Nonfinite",
    "TensorMismatchError",
    "Tolerance",
    "Worst",
    "assert_close",
    "bitwise",
    "close",
    "combine",
    "compare",
    "cosine",
    "default_tolerance",
    "describe",
    "digest",
    "explain",
    "one_thread",
    "psnr",
    "ulp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
