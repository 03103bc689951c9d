"""Right values at wrong places: tensors that hold each other's content, and a whole file shifted by some elements."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.difference.kinds import block_of, kind_of
from pytest_genmodel.diagnosis.difference.windows import Windows
from pytest_genmodel.diagnosis.finding import Finding, finding_of

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison

SUSPICIOUS = 0.02
"""Relative difference from which a tensor's content is looked for elsewhere; a fine-tune stays below, as a rule."""
MOST_LOOKED_AT = 4096
"""Tensors of a component whose content is looked for; the rest is left alone."""
_ALIKE, _AHEAD = 0.9, 0.4
"""Correlation with another tensor's content that counts as a find, and by how much it must beat its own."""
_ENOUGH, _AT_LEAST = 64, 8
"""Values a correlation needs, and those that equality needs."""
_SHIFTED = 0.3
_WINDOW = 64
_TRIES = 3
"""Tensors that are compared in full to learn by how much a file is shifted."""


@dataclass(frozen=True)
class Moved:
    """Our tensor `name` holds what the reference calls `origin`; `likeness` is the correlation (1.0: equal)."""

    name: str
    origin: str
    likeness: float


def moved_content(difference: WeightDifference, suspects: list[str]) -> list[Moved]:
    """Find tensors that hold the content of another tensor of their shape: exactly, or fine-tuned since.

    A few thousand values of each are read. Among tensors of one shape, the best match must be another's and beat
    the own one clearly.
    """
    import torch

    groups: dict[tuple[int, ...], list[str]] = {}
    for name in suspects[:MOST_LOOKED_AT]:
        shape = difference.ours.tensors[difference.counterparts[name][0]].shape
        groups.setdefault(shape, []).append(name)
    found: list[Moved] = []
    with Windows(difference.ours) as ours, Windows(difference.theirs) as theirs:
        for shape, names in groups.items():
            others = [
                name
                for name, (_, stored) in difference.counterparts.items()
                if difference.theirs.tensors[stored].shape == shape
            ][:MOST_LOOKED_AT]
            if len(others) < 2:
                continue
            if difference.glances is not None:
                a, b = difference.glances(names, others)
            else:
                a = torch.stack([ours.glance(difference.counterparts[name][0]) for name in names])
                b = torch.stack([theirs.glance(difference.counterparts[name][1]) for name in others])
            found += _best(names, others, a, b)
            if shape and math.prod(shape) < _ENOUGH and difference.glances is None:
                found += _short(difference, names, others, ours, theirs, {one.name for one in found})
    # A tied tensor is compared under each of its names: that ours is the one name and theirs the other is no move.
    stored = {name: ours for name, (ours, _) in difference.counterparts.items()}
    return [moved for moved in found if stored[moved.name] != stored[moved.origin]]


def _best(names: list[str], others: list[str], a: torch.Tensor, b: torch.Tensor) -> Iterator[Moved]:
    import torch

    count = a.shape[1]
    if count < _AT_LEAST or not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        a, b = a.nan_to_num(0.0, 0.0, 0.0), b.nan_to_num(0.0, 0.0, 0.0)
    likeness = _normed(a) @ _normed(b).T
    place = {name: index for index, name in enumerate(others)}
    for row, name in enumerate(names):
        best = int(likeness[row].argmax())
        own = place.get(name)
        if own is None or best == own or count < _AT_LEAST:
            continue
        value, mine = float(likeness[row, best]), float(likeness[row, own])
        equal = torch.equal(a[row], b[best]) and bool(a[row].std() > 0)
        if equal or (count >= _ENOUGH and value >= _ALIKE and value - mine >= _AHEAD):
            yield Moved(name, others[best], 1.0 if equal else value)


def _short(
    difference: WeightDifference,
    names: list[str],
    others: list[str],
    ours: Windows,
    theirs: Windows,
    told: set[str],
) -> Iterator[Moved]:
    """Tensors too short to be known each by itself (norms of queries and keys): those of all blocks together.

    A kind of tensor (its name with the block numbers taken out) is compared with the other kinds that the same blocks
    have.
    """
    import torch

    kinds: dict[str, dict[tuple[str, ...], str]] = {}
    for name in others:
        kinds.setdefault(kind_of(name), {})[block_of(name)] = name
    wanted = {kind_of(name) for name in names if name not in told}
    for blocks in dict.fromkeys(tuple(members) for kind, members in kinds.items() if kind in wanted):
        alike = [kind for kind, members in kinds.items() if tuple(members) == blocks]
        if len(alike) < 2 or len(blocks) < 2:
            continue
        mine = [kind for kind in alike if kind in wanted]
        stored = difference.counterparts
        a, b = (
            torch.stack(
                [
                    torch.cat([side.glance(stored[kinds[kind][block]][place]) for block in blocks])
                    for kind in which
                ]
            )
            for side, which, place in ((ours, mine, 0), (theirs, alike, 1))
        )
        for one in _best(mine, alike, a, b):
            for block in blocks:
                yield Moved(kinds[one.name][block], kinds[one.origin][block], one.likeness)


def _normed(rows: torch.Tensor) -> torch.Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    normed: torch.Tensor = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return normed


def moved_findings(component: str, moved: list[Moved]) -> Iterator[Finding]:
    """Say which tensors are swapped in pairs, and which hold another's content otherwise."""
    origin = {found.name: found for found in moved}
    pairs = [
        (found, origin[found.origin])
        for found in moved
        if found.origin in origin and origin[found.origin].origin == found.name and found.name < found.origin
    ]
    paired = {found.name for pair in pairs for found in pair}
    if pairs:
        first, second = pairs[0]
        names = [found.name for pair in pairs for found in pair]
        more = f", and so are {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
        yield Finding(
            "GM314",
            f"{first.name} and {second.name} are swapped: each holds what the reference keeps under the other's name"
            f"{_how_exact(min(first.likeness, second.likeness))}{more}",
            component=component or None,
            location=first.name,
            cause="the table of names that saved or converted the checkpoint has two lines crossed",
            evidence={
                "count": len(names),
                "tensors": names[:200],
                "pairs": [[a.name, b.name] for a, b in pairs[:20]],
            },
        )
    single = [found for found in moved if found.name not in paired]
    if single:
        first = single[0]
        yield finding_of(
            "GM314",
            [found.name for found in single],
            "hold what the reference keeps under another name",
            after=f"; {first.name} holds {first.origin}{_how_exact(first.likeness)}",
            component=component or None,
            cause="the names were counted or translated wrongly (layers off by one, two names crossed)",
            evidence={"origins": {found.name: found.origin for found in single[:20]}},
        )


def _how_exact(likeness: float) -> str:
    return (
        ""
        if likeness == 1.0
        else f" (and has changed a little since: correlation {min(likeness, 0.9999):.4f})"
    )


def shifted(difference: WeightDifference, suspects: list[str]) -> tuple[int, list[str]]:
    """By how many elements the content is shifted (positive: later), and which tensors are; (0, []) if none.

    At most three tensors are compared in full; whether the other
    changed tensors are shifted by as much shows in a window of each.
    """
    import torch

    if difference.glances is not None:
        return 0, []  # a shift shows in the values, which are not here
    large = [
        name
        for name in suspects
        if (difference.changed[name].relative_difference or 0.0) >= _SHIFTED
        and difference.changed[name].numel >= 4 * _WINDOW
    ]
    shift = next((s for name in large[:_TRIES] if (s := _shift_of(difference.detail(name)))), 0)
    if not shift:
        return 0, []
    found = []
    with Windows(difference.ours) as ours, Windows(difference.theirs) as theirs:
        for name in difference.changed:
            one, other = difference.counterparts[name]
            overlap = ours.numel(one) - abs(shift)
            if ours.numel(one) != theirs.numel(other) or overlap <= 0:
                continue
            count = min(overlap, _WINDOW)
            begin = (overlap - count) // 2
            a = ours.read(one, begin + max(shift, 0), count)
            b = theirs.read(other, begin + max(-shift, 0), count)
            if torch.equal(a, b):
                found.append(name)
    return (shift, found) if found else (0, [])


def _shift_of(detail: Comparison) -> int:
    import torch

    if detail.likeness is None or detail.likeness.kind != "flat_shift":
        return 0
    width = getattr(torch, detail.dtypes[0].removeprefix("torch.")).itemsize
    moved = int(detail.likeness.details["bytes"])
    return moved // width if moved % width == 0 else 0


def shift_finding(component: str, shift: int, names: list[str], total: int) -> Finding:
    """Say that `names` hold the reference's values at other places."""
    way = "later" if shift > 0 else "earlier"
    count = abs(shift)
    return finding_of(
        "GM315",
        names,
        f"hold the reference's values {count} element{'s' if count > 1 else ''} {way}",
        of=total,
        component=component or None,
        cause="the tensors were cut out of one long row at a wrong offset (zero_to_fp32 and its kin)",
        evidence={"shift": shift},
    )
