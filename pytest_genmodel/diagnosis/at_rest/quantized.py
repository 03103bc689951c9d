"""Wide weights that were quantized on the way: their values lie on the few levels of a narrow format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.names import is_adapter_name
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.difference.windows import Windows
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.diagnosis.rules import Severity

if TYPE_CHECKING:
    import torch

ENOUGH_VALUES = 1024
_WIDE = ("F64", "F32", "BF16", "F16")
_LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
"""The largest number of each float8 format (OCP 8-bit floating point specification, table 1)."""
_NEAR = 0.006
"""Relative distance from a level that rounding to bfloat16 may leave; levels of float8 are 6 % apart at least."""
_GROUP, _LEVELS = 32, 16
"""Values of a group of the finest usual 4-bit formats, and how many different ones 4 bits can say."""
_INT8, _WHOLE, _AT_LEAST = 127, 0.02, 24
"""The most steps that 8 bits count, how far from a whole number one may be, and values of a row that tell."""
_PLACES, _WINDOW = 8, 256
"""How many stretches of a matrix are looked at, and how many values each is long: a multiple of every group."""
_MOST_LOOKED_AT = 400


def quantized(part: Part) -> Iterator[Finding]:
    """Most of the matrices hold only what a float8, an 8-bit or a 4-bit format can say.

    A few thousand values of each are looked at. Where they are the codes themselves, up to the largest number of the
    format, the scales were forgotten: that is an error.
    """
    matrices = [
        name
        for name, figures in part.statistics.items()
        if part.weights.tensors[name].dtype in _WIDE
        and part.is_matrix(name)
        and figures.numel >= ENOUGH_VALUES
        and not (figures.constant or figures.nan or figures.inf or name in part.told or is_adapter_name(name))
    ]
    formats: dict[str, list[str]] = {}
    with Windows(part.weights) as windows:
        for name in matrices[:: max(1, len(matrices) // _MOST_LOOKED_AT)]:
            found = _format(part, windows, name)
            if found is not None:
                formats.setdefault(found, []).append(name)
    for text, names in formats.items():
        if 2 * len(names) <= min(len(matrices), _MOST_LOOKED_AT) or len(names) < 2:
            continue
        codes = [
            name for name in names if text in _LARGEST and part.statistics[name].abs_max == _LARGEST[text]
        ]
        if 2 * len(codes) > len(names):
            part.told.update(names)
            yield finding_of(
                "GM320",
                codes,
                f"hold the codes of {text}, up to its largest number {_LARGEST[text]:g}",
                of=len(matrices),
                noun="matrices",
                component=part.name or None,
                evidence={"format": text},
            )
            continue
        part.told.update(names)
        yield finding_of(
            "GM321",
            names,
            f"hold only values that {text} can hold",
            of=len(matrices),
            noun="matrices",
            component=part.name or None,
            severity=Severity.WARNING,
            evidence={"format": text},
        )


def _format(part: Part, windows: Windows, name: str) -> str | None:
    """The narrow format whose levels all values lie on that are looked at."""
    import torch

    numel, columns = part.statistics[name].numel, part.weights.tensors[name].shape[-1]
    step = max(_WINDOW, numel // _PLACES // _WINDOW * _WINDOW)
    blocks = [windows.read(name, begin, _WINDOW) for begin in range(0, numel - _WINDOW + 1, step)]
    values, largest = torch.cat(blocks), part.statistics[name].abs_max
    if not bool((values != 0).any()):
        return None
    for text, most in _LARGEST.items():
        dtype = getattr(torch, text)
        if bool((values.abs() <= most).all()) and torch.equal(values.float().to(dtype).double(), values):
            return text
    scale = largest / _LARGEST["float8_e4m3fn"]
    level = (values / scale).float().clamp(-448.0, 448.0).to(torch.float8_e4m3fn).double()
    if bool(((values / scale - level).abs() <= _NEAR * level.abs()).all()):
        return "float8_e4m3fn times one number"
    groups = torch.cat([block.view(-1, _GROUP) for block in blocks])
    if all(len(torch.unique(group)) <= _LEVELS for group in groups):
        return "a format of 4 bits"
    rows = range(0, numel // columns, max(1, numel // columns // _PLACES))
    pieces = [windows.read(name, row * columns, min(columns, _WINDOW)) for row in rows]
    telling = [levels for piece in pieces if len(levels := torch.unique(piece.abs())) >= _AT_LEAST]
    by_rows = all(_on_integers(levels, float(levels[-1])) for levels in telling)
    is_whole = by_rows or all(_on_integers(levels, largest) for levels in telling)
    return "a format of 8-bit integers" if telling and is_whole else None


def _on_integers(levels: torch.Tensor, largest: float) -> bool:
    """Whether the values are whole multiples of a 127th of the largest, as far as rounding to bfloat16 leaves it."""
    counts = levels / largest * _INT8
    return bool(((counts - counts.round()).abs() <= _WHOLE + counts * 2.0**-7).all())
