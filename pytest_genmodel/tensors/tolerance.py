"""How far two tensors may be apart, and how far by default.

    bitwise                        every bit the same
    ulp(2)                         at most 2 units in the last place apart
    close(rtol=1e-3, atol=1e-5)    |actual - expected| <= atol + rtol * |expected|, element by element
    psnr(25)                       peak signal-to-noise ratio of at least 25 dB
    cosine(0.999)                  cosine similarity of at least 0.999

A tolerance is a small frozen value: hashable, comparable with ``==``, readable as text, written to JSON with
`Tolerance.to_json` and read from an ini file with `Tolerance.parse`. This module does not import torch.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import ClassVar

from pytest_genmodel.errors import BadInputError

JsonValue = str | int | float | None


@dataclass(frozen=True)
class Tolerance:
    """Base of the five kinds; make one with `bitwise`, `ulp`, `close`, `psnr` or `cosine`."""

    kind: ClassVar[str] = ""

    def to_json(self) -> dict[str, JsonValue]:
        """The kind and its figures as a JSON object, for example ``{"kind": "psnr", "db": 25.0, "peak": 1.0}``."""
        figures: dict[str, JsonValue] = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"kind": self.kind, **figures}

    @staticmethod
    def from_json(value: object) -> Tolerance:
        """The tolerance that `to_json` wrote; BadInputError for anything else."""
        if not isinstance(value, dict) or str(value.get("kind")) not in _MAKERS:
            raise BadInputError(f"not a tolerance: {value!r}; {_ACCEPTED}")
        return _make(value["kind"], [], {name: figure for name, figure in value.items() if name != "kind"})

    @staticmethod
    def parse(text: str) -> Tolerance:
        """The tolerance an ini value spells: ``bitwise``, ``ulp:2``, ``close:1e-3,1e-5``, ``psnr:25``.

        Figures may be named (``close:atol=1e-3``); ``close`` alone means the defaults of the dtype. What
        `spelled` gives is accepted too. Raises BadInputError with the accepted spellings.
        """
        kind, _, rest = re.sub(r"^(\w+)\((.*)\)$", r"\1:\2", text.strip()).partition(":")
        if kind not in _MAKERS:
            raise BadInputError(f"unknown tolerance {text!r}; {_ACCEPTED}")
        positional: list[object] = []
        named: dict[str, object] = {}
        for part in filter(None, (piece.strip() for piece in rest.split(","))):
            name, equals, figure = part.rpartition("=")
            if equals:
                named[name.strip()] = _figure(figure, text)
            else:
                positional.append(_figure(figure, text))
        return _make(kind, positional, named)

    def spelled(self) -> str:
        """The call that makes this very tolerance, to be pasted: ``close(atol=0.00031)``, ``psnr(31.2)``."""
        return self._call()

    def _call(self) -> str:
        return self.kind

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class Bitwise(Tolerance):
    """Every bit the same: NaN equals NaN of the same payload, and -0.0 is not 0.0."""

    kind: ClassVar[str] = "bitwise"


@dataclass(frozen=True)
class Ulp(Tolerance):
    """At most `n` representable values apart; for integers, at most `n` apart. -0.0 and 0.0 are 0 apart."""

    kind: ClassVar[str] = "ulp"
    n: int

    def _call(self) -> str:
        return f"ulp({self.n})"

    def __str__(self) -> str:
        return self._call()


@dataclass(frozen=True)
class Close(Tolerance):
    """|actual - expected| <= atol + rtol * |expected|; both None stand for the defaults of the dtype."""

    kind: ClassVar[str] = "close"
    rtol: float | None
    atol: float | None

    def _call(self) -> str:
        if self.rtol is None or self.atol is None:
            return "close()"
        figures = {"rtol": self.rtol, "atol": self.atol}
        named = [f"{name}={_digits(value)}" for name, value in figures.items() if value]
        return f"close({', '.join(named) or 'atol=0'})"

    def __str__(self) -> str:
        if self.rtol is None or self.atol is None:
            return "close(defaults of the dtype)"
        return f"close(rtol={self.rtol:g}, atol={self.atol:g})"


@dataclass(frozen=True)
class Psnr(Tolerance):
    """10 * log10(peak^2 / mean squared difference) >= db; `peak` is the largest value a sample can have."""

    kind: ClassVar[str] = "psnr"
    db: float
    peak: float = 1.0

    def _call(self) -> str:
        return f"psnr({_digits(self.db)}{'' if self.peak == 1.0 else f', peak={_digits(self.peak)}'})"

    def __str__(self) -> str:
        peak = "" if self.peak == 1.0 else f" (peak {self.peak:g})"
        return f"psnr >= {self.db:g} dB{peak}"


@dataclass(frozen=True)
class Cosine(Tolerance):
    """Cosine similarity of the two flattened tensors >= `minimum`."""

    kind: ClassVar[str] = "cosine"
    minimum: float

    def _call(self) -> str:
        return f"cosine({_digits(self.minimum)})"

    def __str__(self) -> str:
        return f"cosine >= {self.minimum:g}"


bitwise: Tolerance = Bitwise()


def ulp(n: int) -> Tolerance:
    """At most `n` units in the last place apart (a whole number >= 0, else BadInputError)."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise BadInputError(f"ulp(n): n must be a whole number >= 0, got {n!r}")
    return Ulp(n)


def close(rtol: float | None = None, atol: float | None = None) -> Tolerance:
    """|actual - expected| <= atol + rtol * |expected|.

    With neither given, both are the defaults of the dtype (see `default_tolerance`); with one given, the other
    is 0, so ``close(atol=1e-3)`` means exactly that. Negative or non-finite figures raise BadInputError.
    """
    if rtol is None and atol is None:
        return Close(None, None)
    return Close(
        _real("close(rtol)", 0.0 if rtol is None else rtol, minimum=0.0),
        _real("close(atol)", 0.0 if atol is None else atol, minimum=0.0),
    )


def psnr(db: float, peak: float = 1.0) -> Tolerance:
    """A peak signal-to-noise ratio of at least `db` decibels; `peak` is 1.0 for [0, 1] frames, 255 for bytes."""
    peak = _real("psnr(peak)", peak, minimum=0.0)
    if peak == 0.0:
        raise BadInputError("psnr(peak): must be above 0, the largest value a sample can have (1.0 or 255)")
    return Psnr(_real("psnr(db)", db), peak)


def cosine(minimum: float) -> Tolerance:
    """A cosine similarity of at least `minimum`, from -1 to 1."""
    return Cosine(_real("cosine(minimum)", minimum, minimum=-1.0, maximum=1.0))


# (rtol, atol) on a CPU, then on an accelerator.
_DEFAULTS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "float64": ((1e-7, 1e-7), (1e-7, 1e-7)),
    "float32": ((1.3e-6, 1e-5), (1.3e-6, 1e-4)),
    "float16": ((1e-3, 1e-5), (1e-3, 1e-5)),
    "bfloat16": ((1.6e-2, 1e-5), (1.6e-2, 1e-5)),
}
_PARTS = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}


@lru_cache
def default_tolerance(dtype: object, device_type: str = "cpu") -> Tolerance:
    """What values of this dtype, computed twice on this device, can honestly be held to.

    `dtype` is a torch dtype or its name ("bfloat16", "torch.bfloat16"); `device_type` is "cpu", "cuda", ...

    | dtype | rtol | atol | source |
    |---|---|---|---|
    | float64 | 1e-7 | 1e-7 | torch.testing.assert_close (torch 2.13) |
    | float32 | 1.3e-6 | 1e-5 | torch.testing; see below |
    | float32, not CPU | 1.3e-6 | 1e-4 | diffusers' own limit for a model run twice on a GPU (offload), TF32 off |
    | float16 | 1e-3 | 1e-5 | torch.testing |
    | bfloat16 | 1.6e-2 | 1e-5 | torch.testing; see below |
    | complex | as their parts | | torch.testing |
    | integers, bool | bitwise | | torch.testing |
    | float8 and others | bitwise | | torch.testing; they store weights, nothing computes in them |

    float32 on a CPU: two runs of a tiny I2V pipeline differ by at most 3.3e-6 (batch, SDPA backend, fused LoRA), and
    the smallest real fault measured is 1.6e-5. bfloat16 hides a uniform 1 % rescale, so look at
    `relative_norm_change` too, or ask for `bitwise`.

    Half precision on an accelerator: better measured than taken from a table (the reference against itself under
    another batch size or backend, times 3).
    """
    name = str(dtype).removeprefix("torch.")
    limits = _DEFAULTS.get(_PARTS.get(name, name))
    if limits is None:
        return bitwise
    rtol, atol = limits[0 if device_type == "cpu" else 1]
    return Close(rtol, atol)


_MAKERS: dict[str, Callable[..., Tolerance]] = {
    "bitwise": lambda: bitwise,
    "ulp": ulp,
    "close": close,
    "psnr": psnr,
    "cosine": cosine,
}
_ACCEPTED = "accepted: bitwise, ulp:N, close, close:RTOL,ATOL, psnr:DB, psnr:DB,PEAK, cosine:MINIMUM"


def _make(kind: str, positional: list[object], named: dict[str, object]) -> Tolerance:
    try:
        return _MAKERS[kind](*positional, **named)
    except TypeError:
        raise BadInputError(f"wrong figures for the tolerance {kind!r}; {_ACCEPTED}") from None


def _figure(text: str, whole: str) -> float:
    text = text.strip()
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise BadInputError(f"{text!r} in the tolerance {whole!r} is not a number; {_ACCEPTED}") from None


def _digits(value: float) -> str:
    """As few digits as give exactly this number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _real(what: str, value: float, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and abs(value) <= sys.float_info.max and minimum <= value <= maximum:
        return float(value)
    if math.isfinite(maximum):
        accepted = f"a number from {minimum:g} to {maximum:g}"
    else:
        accepted = f"a finite number >= {minimum:g}" if math.isfinite(minimum) else "a finite number"
    raise BadInputError(f"{what}: must be {accepted}, got {value!r}")
