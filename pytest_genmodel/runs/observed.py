"""What is kept of two samples that a claim compared: figures of every place that differs, and its values.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_genmodel.reports.report import plain

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.invariants.samples import SampleComparison
    from pytest_genmodel.tensors import Comparison

MOST_BYTES = 64_000_000
"""Bytes of values in one saved run; beyond it the largest places are left out, and their figures stay."""
FIGURES = ("problem", "max_abs", "max_rel", "max_ulp", "psnr", "cosine", "relative_difference", "numel")
"""Of a place that differs: the figures of `tensors.Comparison`, for a peak of 1."""


def record(comparison: SampleComparison) -> dict[str, Any]:
    """One comparison as plain values, and bytes under `values` of the places that differ.

    A place that is not listed holds the same bits on both sides. `values` are (ours, theirs), float32 in row-major
    order.
    """
    return {
        "name": comparison.name,
        "code": comparison.code,
        "ends": comparison.ends,
        "tolerance": comparison.tolerance.to_json(),
        "shapes": {
            name: [list(getattr(side, name).shape) for side in (comparison.ours, comparison.theirs)]
            for name in ("latents", "frames")
        },
        "places": list(_places(comparison)),
    }


def places_of(ours: Any, theirs: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Every place of two samples, in the order in which they are judged: `step 1`, ..., `frame 0`, ..."""
    if ours.latents.shape == theirs.latents.shape:
        for step, (a, b) in enumerate(zip(ours.latents, theirs.latents, strict=True), start=1):
            yield f"step {step}", a, b
    for frame, (a, b) in enumerate(zip(ours.frames, theirs.frames, strict=False)):
        yield f"frame {frame}", a, b


def _places(comparison: SampleComparison) -> Iterator[dict[str, Any]]:
    from pytest_genmodel.tensors import bitwise, compare

    room = MOST_BYTES
    for place, a, b in places_of(comparison.ours, comparison.theirs):
        found = compare(a, b, bitwise)
        if found.passed:
            continue
        values = None
        if found.shapes[0] == found.shapes[1] and (size := 2 * a.numel() * a.element_size()) <= room:
            room -= size
            values = (_bytes(a), _bytes(b))
        yield {
            "place": place,
            "shape": list(found.shapes[0]),
            "figures": _figures(found),
            "values": values,
        }


def _figures(comparison: Comparison) -> dict[str, Any]:
    figures: dict[str, Any] = plain({name: getattr(comparison, name) for name in FIGURES})
    return figures


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().float().contiguous().numpy().tobytes()


def bounded(records: Sequence[dict[str, Any]], most: int = MOST_BYTES) -> list[str]:
    """Take values out of `records` until all of them fit, the largest place first; gives what was left out."""
    kept = [
        (len(place["values"][0]) * 2, record["name"], place)
        for record in records
        for place in record["places"]
        if place["values"] is not None
    ]
    total, dropped = sum(size for size, *_ in kept), []
    for size, name, place in sorted(kept, key=lambda one: -one[0]):
        if total <= most:
            break
        place["values"] = None
        total -= size
        dropped.append(f"{name}, {place['place']}: {size} bytes")
    return dropped
