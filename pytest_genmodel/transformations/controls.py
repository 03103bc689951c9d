"""The controls: a pipeline against itself, where nothing but the order of additions can differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pytest_genmodel.pipelines.calibration import ROUNDING, Floor
from pytest_genmodel.transformations.bench import FRAMES, LATENTS, Bench, Observation, sampled
from pytest_genmodel.transformations.neutral import NotHereError
from pytest_genmodel.transformations.neutral_kernels import odd_addresses, other_rounding, other_threads


def _nothing(bench: Bench) -> AbstractContextManager[Any]:
    return nullcontext(bench.live)


CONTROLS: Mapping[str, Callable[[Bench], AbstractContextManager[Any]]] = {
    "same again": _nothing,
    "memory alignment": odd_addresses,
    "thread count": other_threads,
    ROUNDING: other_rounding,
}


def measure_floor(bench: Bench) -> Floor:
    """Run every control that there is on this device, and compare each with the base sample."""
    base = bench.base(sampled)
    by_kind: dict[str, dict[str, float]] = {LATENTS: {}, FRAMES: {}}
    for name, control in CONTROLS.items():
        try:
            with control(bench) as live:
                seen = sampled(bench, f"control: {name}", live)
        except NotHereError:
            continue
        for kind, value in distances(seen, base).items():
            by_kind[kind][name] = value
    return Floor(by_kind)


def distances(ours: Observation, theirs: Observation) -> dict[str, float]:
    """max |a-b| over the largest |b|, of each kind of thing that was looked at."""
    return {
        kind: max(distance(a, b, scale) for a, b in _pairs(ours, theirs, kind))
        for kind, scale in scales(theirs).items()
    }


def scales(observation: Observation) -> dict[str, float]:
    """The largest value of each kind of thing; 1 where all are zero."""
    found: dict[str, float] = {}
    for look in observation:
        found[look.kind] = max(found.get(look.kind, 0.0), float(look.values.abs().max()))
    return {kind: scale or 1.0 for kind, scale in found.items()}


def distance(ours: Any, theirs: Any, scale: float) -> float:
    """max |a-b| over `scale`; 0 where both hold the same bits (NaN included), infinite where it is no number."""
    if ours.shape != theirs.shape:
        return float("inf")
    away = float((ours - theirs).abs().max()) / scale if ours.numel() else 0.0
    if away != away:
        same = bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())
        return 0.0 if same else float("inf")
    return away


def _pairs(ours: Observation, theirs: Observation, kind: str) -> list[tuple[Any, Any]]:
    return [(a.values, b.values) for a, b in zip(ours, theirs, strict=False) if a.kind == b.kind == kind]
