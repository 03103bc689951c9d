"""Likenesses in which the values are right and their places are not: transposes, flips, shifts, permutations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import permutations

import torch

from .blocks import BLOCK, raw_bytes, same_memory
from .dtypes import as_wide
from .likeness_evidence import (
    FULL_CHECK,
    STATISTICS_SAMPLE,
    Evidence,
    Fit,
    Likeness,
    measure_fit,
    spread_places,
    take,
)

# From the flat places of the actual side to the flat places of the expected side that belong there.
Source = Callable[[torch.Tensor], torch.Tensor]

_MOST_AXES = 5  # 5! = 120 orders of axes
_MOST_LINES = 2**13  # rows matched against rows
_LINE_SAMPLE = 64  # places looked at in each row
_SHIFT_WINDOW = 2**18  # bytes searched on either side of the middle
_PATTERN = 64  # bytes of the pattern searched for
_MOST_SORTED = 2**24
_ENOUGH_FOR_MASKS = 64
_SAME_NORM = 1e-6  # the order of a sum changes less


def transposed(evidence: Evidence) -> Likeness | None:
    """The axes were permuted, and the result read in the old shape."""
    shape = evidence.shape
    if sum(size > 1 for size in shape) < 2 or len(shape) > _MOST_AXES:
        return None
    for order in permutations(range(len(shape))):
        turned = tuple(shape[axis] for axis in order)
        if not _moves_something(order, shape):
            continue
        fit = _try(evidence, _permuted_axes(shape, order))
        if fit is None:
            continue
        if turned == shape:
            moved = [evidence.names[place] for place, axis in enumerate(order) if place != axis]
            text = f"actual is expected with {_and(moved)} {'swapped' if len(moved) == 2 else 'permuted'}"
        else:
            text = f"actual is expected, transposed to {turned} and then read as {shape}"
        return Likeness(
            "transposed",
            text + _how_well(evidence, fit),
            "A .T, .permute or .reshape too many or too few: look at the converter, or at the axis order.",
            fit.residual,
            {"order": ", ".join(map(str, order))},
        )
    return None


def axis_flipped(evidence: Evidence) -> Likeness | None:
    """One axis runs backwards."""
    for axis, size in enumerate(evidence.shape):
        if size < 2:
            continue
        fit = _try(evidence, _along(evidence.shape, axis, partial(_reversed, size)))
        if fit is not None:
            name = evidence.names[axis]
            colours = size == 3
            return Likeness(
                "axis_flipped",
                f"actual is expected reversed along {name}"
                + (" (size 3: RGB read as BGR)" if colours else "")
                + _how_well(evidence, fit),
                "One side has the colour channels in the other order: convert BGR to RGB."
                if colours
                else f"Look for a flip or a reversed loop over {name} (frames or timesteps in the other order).",
                fit.residual,
                {"axis": axis},
            )
    return None


def moved_along_axis(evidence: Evidence) -> Likeness | None:
    """The lines of one axis are all there, in another order: rolled, halves swapped, or permuted."""
    for axis, size in enumerate(evidence.shape):
        if size < 2 or size > _MOST_LINES or evidence.numel // size < 2:
            continue
        order = _matching_lines(evidence, axis)
        if order is None:
            continue
        places = torch.arange(size)
        shift = int(torch.mode((places - order) % size).values)
        if shift and (found := _rolled(evidence, axis, shift)) is not None:
            return found
        fit = _try(evidence, _along(evidence.shape, axis, order.__getitem__))
        if fit is not None:
            return _permuted(evidence, axis, order, fit)
    return None


def rolled_line(evidence: Evidence) -> Likeness | None:
    """A one-dimensional tensor rolled: there are no lines to match, so the place of its values is searched."""
    if sum(size > 1 for size in evidence.shape) != 1 or evidence.numel < 4:
        return None
    axis = next(axis for axis, size in enumerate(evidence.shape) if size > 1)
    start = take(evidence.actual, torch.zeros(1, dtype=torch.int64))
    if evidence.numel > _MOST_SORTED:
        return None
    whole = take(evidence.expected, torch.arange(evidence.numel))
    for shift in ((as_wide(whole) == as_wide(start)).nonzero()[:16, 0]).tolist():
        found = _rolled(evidence, axis, -shift % evidence.numel) if shift else None
        if found is not None:
            return found
    return None


def flat_shift(evidence: Evidence) -> Likeness | None:
    """The bytes are right and start at the wrong place, as after a wrong offset into a file."""
    if evidence.actual.dtype != evidence.expected.dtype or evidence.numel < 2 * _PATTERN:
        return None
    sides = evidence.actual, evidence.expected
    free = all(side.device.type == "cpu" and side.is_contiguous() for side in sides)
    if not free and evidence.numel > FULL_CHECK:
        return None  # not worth a copy of a large tensor
    actual, expected = (side.cpu().contiguous().view(-1) for side in sides)
    first, second = actual.view(torch.uint8), expected.view(torch.uint8)
    middle = first.numel() // 2
    pattern = bytes(raw_bytes(first[middle : middle + _PATTERN]))
    start = max(0, middle - _SHIFT_WINDOW)
    window = bytes(raw_bytes(second[start : middle + _SHIFT_WINDOW]))
    # A pattern that occurs twice (zeros, above all) says nothing about where it came from.
    found = window.find(pattern)
    if found < 0 or window.find(pattern, found + 1) >= 0:
        return None
    shift = middle - (start + found)
    count = first.numel() - abs(shift)
    if shift == 0 or count * 2 < first.numel():
        return None
    if not same_memory(first[max(0, shift) :][:count], second[max(0, -shift) :][:count]):
        return None
    width = actual.element_size()
    amount = f"{abs(shift) // width} elements" if shift % width == 0 else f"{abs(shift)} bytes"
    return Likeness(
        "flat_shift",
        f"actual is expected moved {amount} {'later' if shift > 0 else 'earlier'} in memory; "
        f"the {count // width} elements that overlap are equal",
        "An offset is wrong: look at the reader's data offsets, or at a slice that starts one too late.",
        0.0,
        {"bytes": shift},
    )


def same_values(evidence: Evidence) -> Likeness | None:
    """The same values in an order that no simpler claim explains."""
    if evidence.numel > _MOST_SORTED or evidence.numel < 2:
        return None
    if evidence.sums is not None and evidence.sums.relative_norm_change > _SAME_NORM:
        return None
    totals = [0.0, 0.0]
    for x, y in evidence.wide_pairs():
        totals[0] += float(torch.dot(x, x))
        totals[1] += float(torch.dot(y, y))
    if not math.isclose(totals[0], totals[1], rel_tol=1e-9):
        return None
    everywhere = torch.arange(evidence.numel)
    x, y = (as_wide(take(side, everywhere)).sort().values for side in (evidence.actual, evidence.expected))
    # A few values, repeated, are easily the same in another tensor too.
    if not torch.equal(x, y) or evidence.is_mask or torch.unique_consecutive(x).numel() * 8 < evidence.numel:
        return None
    return Likeness(
        "permuted",
        f"actual holds the same {evidence.numel} values as expected in another order",
        "The values are right and their places are not: look for a reshape without the matching permute.",
        0.0,
    )


def _rolled(evidence: Evidence, axis: int, shift: int) -> Likeness | None:
    size, name = evidence.shape[axis], evidence.names[axis]
    fit = _try(evidence, _along(evidence.shape, axis, lambda place: (place - shift) % size))
    if fit is None:
        return None
    if size > 2 and shift * 2 == size:
        return Likeness(
            "halves_swapped",
            f"actual is expected with the two halves along {name} swapped{_how_well(evidence, fit)}",
            "Two fused parts are in the other order: scale and shift, value and gate, or the two halves of CFG.",
            fit.residual,
            {"axis": axis, "shift": shift},
        )
    back = shift * 2 > size
    return Likeness(
        "axis_rolled",
        f"actual is expected rolled by {shift - size if back else shift} along {name}, "
        f"around the end{_how_well(evidence, fit)}",
        f"Something is off by {min(shift, size - shift)} along {name}: look for a roll, or an index that starts "
        "at the wrong place.",
        fit.residual,
        {"axis": axis, "shift": shift - size if back else shift},
    )


def _permuted(evidence: Evidence, axis: int, order: torch.Tensor, fit: Fit) -> Likeness:
    size, name = evidence.shape[axis], evidence.names[axis]
    moved = (order != torch.arange(size)).nonzero()[:, 0].tolist()
    hint = f"The entries along {name} are in another order: look at how they are listed, sorted or split when saved."
    if len(moved) == 2:
        text = f"actual is expected with entries {moved[0]} and {moved[1]} along {name} swapped"
    elif (groups := _interleaved(order)) is not None:
        each = size // groups
        text = f"actual is expected with {name} regrouped, from {each} x {groups} to {groups} x {each}"
        hint = "Two layouts of one tensor: interleaved or half-split rotary embeddings, q, k, v by head or in turn."
    else:
        text = f"actual is expected with {len(moved)} of {size} entries along {name} in another order"
    return Likeness(
        "permuted", text + _how_well(evidence, fit), hint, fit.residual, {"axis": axis, "moved": len(moved)}
    )


def _interleaved(order: torch.Tensor) -> int | None:
    size = order.numel()
    for groups in range(2, size // 2 + 1):
        if size % groups == 0 and torch.equal(order, torch.arange(size).view(-1, groups).t().reshape(-1)):
            return groups
    return None


def _matching_lines(evidence: Evidence, axis: int) -> torch.Tensor | None:
    """For each line of actual across `axis`, the line of expected that equals it (each used once), on a sample."""
    size = evidence.shape[axis]
    after = math.prod(evidence.shape[axis + 1 :])
    inside = spread_places(evidence.numel // size, _LINE_SAMPLE)
    base = inside // after * (after * size) + inside % after
    places = (torch.arange(size)[:, None] * after + base[None, :]).reshape(-1)
    lines = [
        as_wide(take(side, places)).view(size, -1) + 0.0 for side in (evidence.actual, evidence.expected)
    ]
    sources: dict[bytes, list[int]] = {}
    for place, line in enumerate(lines[1].numpy()):
        sources.setdefault(line.tobytes(), []).append(place)
    wanted = [line.tobytes() for line in lines[0].numpy()]
    order: list[int] = []
    for place, key in enumerate(wanted):
        candidates = sources.get(key)
        if not candidates:
            return _nearest_lines(*lines) if not order else None
        # Among equal lines, the one that did not move.
        order.append(candidates.pop(candidates.index(place) if place in candidates else 0))
    return torch.tensor(order)


def _nearest_lines(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor | None:
    """The nearest line of expected for each of actual, if that is one-to-one: finds a move under noise."""
    if actual.shape[0] > 1024 or not bool(torch.isfinite(actual).all() and torch.isfinite(expected).all()):
        return None
    order = torch.cdist(actual, expected).argmin(1)
    return order if len(set(order.tolist())) == order.numel() else None


def _try(evidence: Evidence, source: Source) -> Fit | None:
    """The fit of a rearrangement if it is worth a claim: on the small sample first, then on all of the tensor."""
    # Zeros and ones fall into each other's places by chance.
    if evidence.is_mask and evidence.numel < _ENOUGH_FOR_MASKS:
        return None
    glance = measure_fit(evidence.sample[0], as_wide(take(evidence.expected, source(evidence.places))))
    if not evidence.explains(glance):
        return None
    fit = _check(evidence, source)
    return fit if evidence.explains(fit) else None


def _check(evidence: Evidence, source: Source) -> Fit:
    """Every element up to 2^24, a spread sample of 2^20 places beyond."""
    most = STATISTICS_SAMPLE if evidence.numel > FULL_CHECK else FULL_CHECK
    count = min(evidence.numel, most)
    places = (
        spread_places(evidence.numel, most, first, min(first + BLOCK, count))
        for first in range(0, count, BLOCK)
    )
    parts = (
        (as_wide(take(evidence.actual, part)), as_wide(take(evidence.expected, source(part))))
        for part in places
    )
    return evidence.fit_parts(parts)


def _along(shape: tuple[int, ...], axis: int, move: Callable[[torch.Tensor], torch.Tensor]) -> Source:
    """The source of a move within one axis."""
    size, after = shape[axis], math.prod(shape[axis + 1 :])

    def source(places: torch.Tensor) -> torch.Tensor:
        position = places // after % size
        return places + (move(position) - position) * after

    return source


def _reversed(size: int, place: torch.Tensor) -> torch.Tensor:
    return size - 1 - place


def _permuted_axes(shape: tuple[int, ...], order: tuple[int, ...]) -> Source:
    """The source of ``expected.permute(order).reshape(shape)``."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]

    def source(places: torch.Tensor) -> torch.Tensor:
        flat = torch.zeros_like(places)
        for axis in reversed(order):
            flat += places % shape[axis] * strides[axis]
            places = places // shape[axis]
        return flat

    return source


def _moves_something(order: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a permutation of the axes moves values in memory (moving axes of size 1 does not)."""
    kept = [axis for axis in order if shape[axis] > 1]
    return kept != sorted(kept)


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _how_well(evidence: Evidence, fit: Fit) -> str:
    where = f" (checked at {STATISTICS_SAMPLE} places)" if evidence.numel > FULL_CHECK else ""
    return evidence.how_well(fit) + where
