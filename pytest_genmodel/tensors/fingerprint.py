"""A fingerprint of a tensor: enough to see that two are equal, and about how far two are apart, in 160 bytes.

Equal digests mean equal bits. For the distance there is a sketch: the values laid into `BUCKETS` columns and added up
with random signs, row by row. It is linear, so that the difference of two sketches is the sketch of the difference,
whose squared norm is on average that of the difference itself (the second-moment sketch of Alon, Matias and Szegedy,
1996); with 32 buckets it is off by about a quarter. A sketch says "about as much as rounding", never "equal".
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pytest_genmodel.tensors.tolerance import Close, default_tolerance

if TYPE_CHECKING:
    import torch

BUCKETS = 32
_BLOCK = 1 << 21
"""Elements that are widened and signed at a time."""
_WORDS = 1 << 16
"""Words that are hashed at a time: they and their factors stay in the cache."""
_SMALL = 1 << 16
_NEXT = 6_364_136_223_846_793_005
"""What a block's sum is multiplied with when the next is added, so that the order of blocks counts (Knuth's MMIX)."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a tensor; `sketch` holds at most `BUCKETS` float32 numbers, none for integers and booleans."""

    shape: tuple[int, ...]
    dtype: str
    digest: bytes
    sketch: bytes = b""

    def equals(self, other: Fingerprint) -> bool:
        """Whether the two tensors have one dtype, one shape, and the same bits."""
        return (self.digest, self.dtype, self.shape) == (other.digest, other.dtype, other.shape)

    def distance(self, expected: Fingerprint) -> float:
        """About ||self - expected|| / ||expected||; infinite where shapes differ, or nothing can be said."""
        import numpy as np

        if self.shape != expected.shape or not self.sketch or not expected.sketch:
            return math.inf
        ours, theirs = (np.frombuffer(one.sketch, np.float32).astype(np.float64) for one in (self, expected))
        gap, size = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(theirs))
        if not math.isfinite(gap):
            return math.inf
        return gap / size if size else (math.inf if gap else 0.0)

    def is_close(self, expected: Fingerprint, device: str = "cpu") -> bool:
        """Whether the two are about as far apart as rounding takes them: the dtype's default tolerance, as norms.

        The limit is atol * sqrt(elements) + rtol * ||expected||, in which the sketch stands for the norm.
        """
        import numpy as np

        if self.dtype != expected.dtype:
            return False
        limit = default_tolerance(self.dtype, device)
        if not isinstance(limit, Close) or limit.rtol is None or limit.atol is None:
            return False
        relative = self.distance(expected)
        if math.isinf(relative):
            return False
        size = float(np.linalg.norm(np.frombuffer(expected.sketch, np.float32).astype(np.float64)))
        return relative * size <= limit.atol * math.sqrt(math.prod(self.shape)) + limit.rtol * size


def fingerprint(tensor: torch.Tensor) -> Fingerprint:
    """Take the fingerprint of a tensor, on the device where it lies; at most a block of it is copied.

    What has no plain memory (meta, sparse, quantized) is known by its dtype and shape alone.
    """
    import torch

    from pytest_genmodel.tensors.dtypes import dtype_name, kind_of

    shape, name = tuple(tensor.shape), dtype_name(tensor.dtype)
    plain = tensor.detach()
    if plain.is_meta or plain.layout is not torch.strided or plain.is_quantized:
        return Fingerprint(shape, name, f"{plain.layout} {plain.device.type}".encode())
    if plain.is_complex():
        plain = torch.view_as_real(plain.resolve_conj())
    flat = plain.contiguous().reshape(-1)
    if flat.numel() == 1:
        flat = flat.as_strided((1,), (1,))  # an expanded element has a stride of 0
    return Fingerprint(shape, name, _digest(flat), _sketch(flat) if kind_of(flat.dtype) == "float" else b"")


def _digest(flat: torch.Tensor) -> bytes:
    """Words of 32 bits times random odd numbers, added up modulo 2^64; two tensors collide once in 2^32 or less.

    A small tensor on the CPU is hashed in one call instead, which costs less than the set-up.
    """
    import torch

    raw = flat.view(torch.uint8)
    if raw.numel() <= _SMALL and raw.device.type == "cpu":
        return hashlib.blake2b(raw.numpy().data, digest_size=8).digest()
    words = raw[: raw.numel() // 4 * 4].view(torch.int32)
    weights, total = _odd(flat.device), torch.zeros((), dtype=torch.int64, device=flat.device)
    for begin in range(0, words.numel(), _WORDS):
        block = words[begin : begin + _WORDS].to(torch.int64)
        total = total * _NEXT + (block.mul_(weights[: block.numel()])).sum()
    if rest := raw.numel() % 4:
        total = total * _NEXT + (raw[-rest:].to(torch.int64) * weights[:rest]).sum()
    return int(total).to_bytes(8, "little", signed=True)


def _sketch(flat: torch.Tensor) -> bytes:
    import torch

    if 0 < flat.numel() <= BUCKETS:
        return (flat.float() * _signs(0, flat.device)[0]).cpu().numpy().tobytes()
    sums = torch.zeros(BUCKETS, dtype=torch.float32, device=flat.device)
    for number, begin in enumerate(range(0, flat.numel(), _BLOCK)):
        block = flat[begin : begin + _BLOCK].float()
        rows = block.numel() // BUCKETS
        signs = _signs(number, flat.device)
        if rows:
            sums += signs[:rows] @ block[: rows * BUCKETS].view(rows, BUCKETS)
        rest = block[rows * BUCKETS :]
        if rest.numel():
            sums[: rest.numel()] += signs[rows] * rest
    return sums.cpu().numpy().tobytes()


@lru_cache(maxsize=64)
def _signs(number: int, device: torch.device) -> torch.Tensor:
    """One sign a row for block `number`, and one for what is left of it; the same in every run."""
    import torch

    generator = torch.Generator("cpu").manual_seed(number)
    rows = _BLOCK // BUCKETS + 1
    return (torch.randint(0, 2, (rows,), generator=generator) * 2 - 1).float().to(device)


@lru_cache(maxsize=4)
def _odd(device: torch.device) -> torch.Tensor:
    import torch

    generator = torch.Generator("cpu").manual_seed(374)
    return (torch.randint(-(2**62), 2**62, (_WORDS,), generator=generator) * 2 + 1).to(device)
