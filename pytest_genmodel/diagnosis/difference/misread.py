"""Right bits under the wrong dtype: 16 bits of bfloat16 read as float16, 8 bits of one float8 as the other.

The file has its size, every value is finite, signs are right, and magnitudes are nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.difference.kinds import as_stored, kind_of
from pytest_genmodel.diagnosis.difference.order import EXPLAINED
from pytest_genmodel.diagnosis.finding import Finding, finding_of

LEAST = 0.4
"""Relative difference from which it is looked for: another exponent moves a value by half of it at least."""
MOST_KINDS = 12
_ENOUGH, _MOST_VALUES = 16, 1 << 24
_OF_ONE_WIDTH = (
    ("bfloat16", "float16"),
    ("float16", "bfloat16"),
    ("float8_e4m3fn", "float8_e5m2"),
    ("float8_e5m2", "float8_e4m3fn"),
    ("float8_e4m3fn", "float8_e4m3fnuz"),
    ("float8_e4m3fnuz", "float8_e4m3fn"),
)
"""Written as the first, read as the second; the float8 formats are those of the Open Compute Project and of AMD."""


@dataclass(frozen=True)
class Misread:
    """Our tensor `name` is the reference's in `written`, its bits read as `read`."""

    name: str
    written: str
    read: str


def misread(difference: WeightDifference, suspects: list[str]) -> list[Misread]:
    """Find tensors that are the reference's, their bits taken for those of another dtype of as many.

    Args:
        difference: what comparing the weights came to; nothing is found where the reference's values are not here.
        suspects: changed tensors of equal shapes.
    """
    if difference.glances is not None:
        return []
    kinds: dict[str, list[str]] = {}
    for name in suspects:
        comparison = difference.changed[name]
        if (comparison.relative_difference or 0.0) >= LEAST and _ENOUGH <= comparison.numel <= _MOST_VALUES:
            kinds.setdefault(kind_of(name), []).append(name)
    found: list[Misread] = []
    for names in list(kinds.values())[:MOST_KINDS]:
        pairs = [(found[0].written, found[0].read)] if found else _OF_ONE_WIDTH
        for written, read in pairs:
            if _explains(difference, names[0], written, read):
                rest = [name for name in names[1:] if _explains(difference, name, written, read)]
                found += [Misread(name, written, read) for name in (names[0], *rest)]
                break
    return as_stored(difference, found)


def _explains(difference: WeightDifference, name: str, written: str, read: str) -> bool:
    import torch

    ours, theirs = (side.float() for side in difference.read(name))
    expected = theirs.to(getattr(torch, written)).view(getattr(torch, read)).float().nan_to_num(0.0, 0.0, 0.0)
    size, left = float(ours.norm()), float((ours - expected).norm())
    if not size or left > EXPLAINED * min(size, float((ours - theirs).norm())):
        return False
    # The two kinds of float8 e4m3 differ by a factor of 2: where a factor says as much, it is the plainer word.
    factor = (ours * theirs).sum() / theirs.square().sum().clamp_min(1e-30)
    return left <= 0.5 * float((ours - factor * theirs).norm())


def misread_findings(component: str, found: list[Misread], total: int) -> Iterator[tuple[Finding, list[str]]]:
    """One finding for each pair of dtypes, and the tensors that it explains."""
    for written, read in dict.fromkeys((one.written, one.read) for one in found):
        names = [one.name for one in found if (one.written, one.read) == (written, read)]
        finding = finding_of(
            "GM327",
            names,
            f"hold the bits of {written}, read as {read}",
            of=total,
            component=component or None,
            cause="the header (or the reader) names another dtype than the bytes have",
            evidence={"written": written, "read": read},
        )
        yield finding, names
