"""Rows of several matrices dealt among each other: a fused matrix that was split at the wrong rows.

Queries, keys and values are one matrix in many repositories, stored one after the other, or head by head, or by the
share of each process. Who splits one order as if it were another gets three matrices of right shapes, each with rows
of all three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.difference.kinds import kind_of
from pytest_genmodel.diagnosis.difference.order import EXPLAINED, LEAST, best_rows
from pytest_genmodel.diagnosis.finding import Finding, finding_of

if TYPE_CHECKING:
    import torch

MOST_KINDS = 6
"""Kinds of groups (block numbers taken out) of which one is searched, and the others where its order is found."""
_MOST_ROWS = 1 << 14
"""Rows of a group that are matched, each with each; a larger group is left alone."""
_FROM_OTHERS = 0.2
"""Share of a group's rows that must come from another of its matrices."""


@dataclass(frozen=True)
class Dealt:
    """Our tensors `names` are the reference's rows, taken together and dealt otherwise; `what` says how."""

    names: tuple[str, ...]
    what: str


def dealt(difference: WeightDifference, suspects: list[str]) -> list[Dealt]:
    """Find groups of matrices of one module and shape that hold each other's rows, exactly or trained on since.

    Args:
        difference: what comparing the weights came to; nothing is found where the reference's values are not here.
        suspects: changed tensors of equal shapes, the one that moved most first.
    """
    if difference.glances is not None:
        return []
    moved = {n for n in suspects if (difference.changed[n].relative_difference or 0.0) >= LEAST}
    groups: dict[str, list[tuple[str, ...]]] = {}
    for names in _groups(difference, moved):
        groups.setdefault(" ".join(map(kind_of, names)), []).append(names)
    found: list[Dealt] = []
    for alike in list(groups.values())[:MOST_KINDS]:
        places = _search(difference, alike[0])
        if places is None:
            continue
        what = _described(places)
        for names in alike:
            if _explains(difference, names, places):
                found.append(Dealt((*names, *_biases(difference, names, places)), what))
    return found


def dealt_findings(component: str, found: list[Dealt], total: int) -> Iterator[tuple[Finding, list[str]]]:
    """One finding for each way of dealing, and the tensors that it explains."""
    for what in dict.fromkeys(one.what for one in found):
        names = [name for one in found if one.what == what for name in one.names]
        names.sort(key=lambda name: name.endswith("bias"))
        finding = finding_of(
            "GM326",
            names,
            "hold rows of the others of their module",
            of=total,
            after=f"; {what}",
            component=component or None,
            cause="a fused matrix of queries, keys and values was split (or joined) in another order than it has",
            evidence={"order": what},
        )
        yield finding, names


def _groups(difference: WeightDifference, moved: set[str]) -> Iterator[tuple[str, ...]]:
    """Matrices of one shape and one parent module that moved far, two at least."""
    siblings: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, (ours, _) in difference.counterparts.items():
        shape = difference.ours.tensors[ours].shape
        if name in moved and len(shape) == 2 and name.endswith(".weight") and name.count(".") >= 2:
            siblings.setdefault((name.rsplit(".", 2)[0], shape), []).append(name)
    for (_, shape), names in siblings.items():
        if len(names) >= 2 and shape[0] * len(names) <= _MOST_ROWS:
            yield tuple(names)


def _joined(difference: WeightDifference, names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    ours, theirs = zip(*map(difference.read, names), strict=True)
    return torch.cat([one.float() for one in ours]), torch.cat([one.float() for one in theirs])


def _search(difference: WeightDifference, names: tuple[str, ...]) -> torch.Tensor | None:
    """For each row of ours the row of theirs, the matrices of a group taken together; None where that is no find."""
    import torch

    from pytest_genmodel.tensors.threads import one_thread

    with one_thread():
        ours, theirs = _joined(difference, names)
        places = best_rows(ours, theirs)
        if places is None:
            return None
        rows = len(ours) // len(names)
        foreign = places // rows != torch.arange(len(places)) // rows
        if float(foreign.float().mean()) < _FROM_OTHERS or not _fits(ours, theirs, places):
            return None
        return places


def _fits(ours: torch.Tensor, theirs: torch.Tensor, places: torch.Tensor) -> bool:
    return float((ours - theirs[places]).norm()) <= EXPLAINED * float((ours - theirs).norm())


def _explains(difference: WeightDifference, names: tuple[str, ...], places: torch.Tensor) -> bool:
    ours, theirs = _joined(difference, names)
    return len(places) == len(ours) and _fits(ours, theirs, places)


def _biases(difference: WeightDifference, names: tuple[str, ...], places: torch.Tensor) -> tuple[str, ...]:
    """The biases of the group, where all of them changed and the same rows explain them."""
    biases = tuple(f"{name.removesuffix('weight')}bias" for name in names)
    if any(name not in difference.changed for name in biases):
        return ()
    return biases if _explains(difference, biases, places) else ()


def _described(places: torch.Tensor) -> str:
    """In how long stretches the rows were dealt: that of a head, or of a process's share."""
    import torch

    breaks = (places[1:] != places[:-1] + 1).nonzero().flatten() + 1
    ends = torch.cat([breaks.new_zeros(1), breaks, breaks.new_tensor([len(places)])])
    size = int(ends.diff().mode().values)
    if size == 1:
        return "row by row"
    return f"in stretches of {size} rows, as a head or a process has them"
