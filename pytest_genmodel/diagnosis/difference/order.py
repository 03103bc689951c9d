"""The reference's values in another order within one tensor: rows, columns or axes that a converter rearranged.

Names, shapes and every statistic are right, and no training makes such a change: what is found here is proven by
putting the reference's tensor into that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.difference.kinds import as_stored, kind_of
from pytest_genmodel.diagnosis.finding import Finding, finding_of

if TYPE_CHECKING:
    import torch

    Order = Callable[[torch.Tensor], torch.Tensor]

LEAST = 0.1
"""Relative difference from which another order is looked for: it moves a tensor by about sqrt(2) of its size, by less
where some rows keep their place."""
EXPLAINED = 0.3
"""Share of a tensor's difference that may be left once the reference is put into the order found."""
MOST_KINDS = 12
"""Kinds of tensors (block numbers taken out) of which one is searched, and the others where its order is found."""
_MANY_ROWS, _FEW_COLUMNS, _COLUMNS = 4096, 64, 512
_AT_LEAST = 8
"""Values that a row must have to be known again."""
_MOST_PARTS = 64
_USUAL_PARTS = (2, 3, 4, 6, 9)
"""Gate and value; q, k and v; shift, scale and gate, once or twice or thrice."""
_ROTARY = "rotary positions are stored in pairs by one library and in halves of a head by another"
_PARTS = "what stands in one matrix (shift and scale, gate and value, q, k and v) was joined in another order"
_AXES = "the axes were taken for those of another library's layout"


@dataclass(frozen=True)
class Reordered:
    """Our tensor `name` is the reference's in the order that `what` describes."""

    name: str
    what: str
    cause: str


@dataclass(frozen=True)
class _Found:
    what: str
    cause: str
    order: Order
    rows: torch.Tensor | None = None


def reordered(difference: WeightDifference, suspects: list[str]) -> list[Reordered]:
    """Find tensors that are the reference's in another order, exactly or trained on since.

    Args:
        difference: what comparing the weights came to; nothing is found where the reference's values are not here.
        suspects: changed tensors of equal shapes, the one that moved most first.
    """
    if difference.glances is not None:
        return []
    kinds: dict[str, list[str]] = {}
    for name in suspects:
        if (difference.changed[name].relative_difference or 0.0) >= LEAST:
            kinds.setdefault(kind_of(name), []).append(name)
    matrices = [kind for kind, names in kinds.items() if _dimensions(difference, names[0]) > 1]
    found: list[Reordered] = []
    of_weight: dict[str, _Found] = {}
    for kind in matrices[:MOST_KINDS]:
        order = _search(difference, kinds[kind][0])
        if order is not None:
            fitting = [name for name in kinds[kind] if _explains(difference, name, order)]
            found += [Reordered(name, order.what, order.cause) for name in fitting]
            of_weight |= dict.fromkeys(fitting, order)
    for name in suspects:  # a bias has too few values to be searched: it goes with its weight
        order = of_weight.get(f"{name.removesuffix('bias')}weight")
        is_new = order is not None and order.rows is not None and name not in of_weight
        if order is not None and is_new and _explains(difference, name, order):
            found.append(Reordered(name, order.what, order.cause))
    return as_stored(difference, found)


def order_findings(component: str, found: list[Reordered], total: int) -> Iterator[Finding]:
    """One finding for each order, its tensors together."""
    for what in dict.fromkeys(one.what for one in found):
        names = [one.name for one in found if one.what == what]
        yield finding_of(
            "GM318",
            names,
            "hold the reference's values in another order",
            of=total,
            after=f"; {what}",
            component=component or None,
            cause=next(one.cause for one in found if one.what == what),
            evidence={"order": what},
        )


def _dimensions(difference: WeightDifference, name: str) -> int:
    return sum(size > 1 for size in difference.ours.tensors[difference.counterparts[name][0]].shape)


def _pair(difference: WeightDifference, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    ours, theirs = difference.read(name)
    return ours.float(), theirs.float()


def _explains(difference: WeightDifference, name: str, found: _Found) -> bool:
    ours, theirs = _pair(difference, name)
    if found.rows is not None and len(found.rows) != len(theirs):
        return False
    return _fits(ours, theirs, found.order(theirs))


def _fits(ours: torch.Tensor, theirs: torch.Tensor, ordered: torch.Tensor) -> bool:
    return float((ours - ordered).norm()) <= EXPLAINED * float((ours - theirs).norm())


def _search(difference: WeightDifference, name: str) -> _Found | None:
    from pytest_genmodel.tensors.threads import one_thread

    with one_thread():
        ours, theirs = _pair(difference, name)
        for found in _orders(ours, theirs):
            if _fits(ours, theirs, found.order(theirs)):
                return found
    return None


def _orders(ours: torch.Tensor, theirs: torch.Tensor) -> Iterator[_Found]:
    """Orders that may explain the difference, the cheapest first."""
    shape = theirs.shape
    for axis in range(2, len(shape)):
        if shape[axis] > 1:
            yield _flipped(axis)
    for one in range(len(shape)):
        for other in range(one + 1, len(shape)):
            if shape[one] == shape[other] > 1:
                yield _exchanged(one, other)
    if len(shape) > 1:
        yield from _written_along(shape)
    for axis, noun in ((0, "rows"), (1, "columns")):
        a, b = (tensor.movedim(axis, 0).flatten(1) for tensor in (ours, theirs))
        for places in (*_by_parts(a, b), best_rows(a, b)):
            if places is None:
                continue
            what, cause = _described(places, noun)
            yield _Found(what, cause, _taken(axis, places), places if axis == 0 else None)


def _flipped(axis: int) -> _Found:
    return _Found(f"axis {axis} runs backwards", _AXES, lambda tensor: tensor.flip(axis))


def _exchanged(one: int, other: int) -> _Found:
    return _Found(f"axes {one} and {other} are exchanged", _AXES, lambda tensor: tensor.transpose(one, other))


def _written_along(shape: torch.Size) -> Iterator[_Found]:
    """Layouts of other libraries, whose values were read as if they stood in ours.

    All axes in reverse (GGUF, Fortran), channels last (MLX), kernels first (TensorFlow).
    """
    axes = tuple(range(len(shape)))
    layouts = dict.fromkeys((axes[::-1], (axes[0], *axes[2:], axes[1]), (*axes[2:], axes[1], axes[0])))
    for layout in layouts:
        moved = tuple(shape[axis] for axis in layout)
        if layout != axes and moved != tuple(shape) and sum(size > 1 for size in shape) > 1:
            yield _Found(
                f"they were written with the axes in the order {', '.join(map(str, layout))} and read without it",
                _AXES,
                lambda tensor, layout=layout: tensor.permute(layout).reshape(tensor.shape),  # type: ignore[misc]
            )


def _taken(axis: int, places: torch.Tensor) -> Order:
    return lambda tensor: tensor.index_select(axis, places)


def best_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    """For each row of `a` the row of `b` that is most like it; None where each is its own, or rows are too short."""
    import torch

    count, width = a.shape
    if count < 2 or width < _AT_LEAST:
        return None
    most = _COLUMNS if count <= _MANY_ROWS else _FEW_COLUMNS
    if width > most:
        chosen = torch.linspace(0, width - 1, most).long()
        a, b = a[:, chosen], b[:, chosen]
    a, b = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30) for rows in (a, b))
    places = torch.cat([(rows @ b.T).argmax(1) for rows in torch.split(a, 1024)])
    return None if torch.equal(places, torch.arange(count)) else places


def _by_parts(a: torch.Tensor, b: torch.Tensor) -> Iterator[torch.Tensor]:
    """Rows in which a few equal parts have changed places, whole: also where single rows are zero or alike."""
    import torch

    for parts in _USUAL_PARTS:
        if len(a) % parts or a.numel() < parts * _AT_LEAST:
            continue
        ours, theirs = (rows.reshape(parts, -1) for rows in (a, b))
        distance = torch.stack([(theirs - part).norm(dim=1) for part in ours])
        best = distance.argmin(1)
        if len(torch.unique(best)) == parts and not torch.equal(best, torch.arange(parts)):
            size = len(a) // parts
            yield (best[:, None] * size + torch.arange(size)).flatten()


def _described(places: torch.Tensor, noun: str) -> tuple[str, str]:
    """The order in words, and what makes it."""
    import torch

    count = len(places)
    plain = torch.arange(count)
    if len(torch.unique(places)) < 0.9 * count:
        return (
            f"some {noun} lie there more than once and others are missing",
            "the part of one process was taken for that of another when the parts were joined",
        )
    if _same(places, plain.flip(0)):
        return f"its {noun} run backwards", _AXES
    divisors = [size for size in range(2, count // 2 + 1) if count % size == 0]
    for parts in divisors:
        if parts <= _MOST_PARTS and (order := _parts(places, parts)):
            if parts == 2:
                return f"its two halves of {noun} are exchanged", _PARTS
            shown = ", ".join(map(str, order[:6])) + (", ..." if parts > 6 else "")
            return f"its {parts} parts of {count // parts} {noun} stand in the order {shown}", _PARTS
    for head in [size for size in (*divisors, count) if size % 2 == 0 and size > 2]:
        heads = plain.view(-1, head)
        if _same(places, heads.view(-1, 2, head // 2).transpose(1, 2).flatten()):
            return f"the two halves of each {head} {noun} are interleaved", _ROTARY
        if _same(places, heads.view(-1, head // 2, 2).transpose(1, 2).flatten()):
            return f"of each {head} {noun} the even ones come first", _ROTARY
    return f"its {noun} stand in another order", _PARTS


def _same(places: torch.Tensor, expected: torch.Tensor) -> bool:
    """A few rows may be alike (zeros), so that one is taken for another."""
    return float((places == expected).float().mean()) > 0.95


def _parts(places: torch.Tensor, parts: int) -> list[int]:
    """The order of `parts` equal parts, where each of them is whole; [] where they are not."""
    import torch

    size = len(places) // parts
    rows = places.view(parts, size)
    starts = rows.sub(torch.arange(size)).mode(1).values
    if bool((starts % size != 0).any()):
        return []
    return (
        (starts // size).tolist() if _same(places, (starts[:, None] + torch.arange(size)).flatten()) else []
    )
