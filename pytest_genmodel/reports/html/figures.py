"""The curves of a candidate: each a plot, where matplotlib is there, and always a table that says the same.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan
from typing import Any

from pytest_genmodel.reports.html import plots

MOST_LAYERS = 60


@dataclass(frozen=True)
class Figure:
    """A plot (`svg`; None where it cannot be drawn) with its title, what it shows in words, and its numbers."""

    title: str
    caption: str
    svg: str | None
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def figures(
    number: int, verdicts: Sequence[Mapping[str, Any]], footage: Mapping[str, Any] | None
) -> Iterator[Figure]:
    """Every figure that the measurements of candidate `number` and its footage allow."""
    if footage is not None:
        yield from _of_sample(number, footage)
    for verdict in verdicts:
        measured = verdict["measurements"]
        if verdict["invariant"] == "same_weights" and (layers := measured.get("drift_by_layer")):
            yield from _layers(number, layers)
        if verdict["invariant"] == "lr_ladder" and (rungs := measured.get("ladder")):
            yield _ladder(f"{number}-{verdict['id']}", str(measured.get("trainer", "trainer")), rungs)


def _of_sample(number: int, footage: Mapping[str, Any]) -> Iterator[Figure]:
    if psnr := footage.get("psnr"):
        values = [min(float(value), plots.EQUAL) for value in psnr]
        yield Figure(
            "Likeness of each frame",
            _likeness(values),
            _drawn("lines", f"psnr-{number}", range(len(values)), values, "frame", "PSNR (dB)"),
            ("frame", "PSNR (dB)"),
            [(str(frame), _text(value)) for frame, value in enumerate(psnr)],
        )
    if latents := footage.get("latents"):
        values = [_number(value) for value in latents]
        steps = range(1, len(values) + 1)
        apart = next((step for step, value in zip(steps, values, strict=True) if value), None)
        yield Figure(
            "Distance of the latents after each step",
            "The latents are equal after every step."
            if apart is None
            else f"Relative L2 distance from the reference's latents. They differ from step {apart} on.",
            _drawn("lines", f"latents-{number}", steps, values, "denoising step", "relative distance"),
            ("step", "relative distance"),
            [(str(step), _text(value)) for step, value in zip(steps, latents, strict=True)],
        )


def _likeness(values: Sequence[float]) -> str:
    """What the PSNR of the frames, at most EQUAL each, says in words; NaN where a frame holds it."""
    known = {frame: value for frame, value in enumerate(values) if not isnan(value)}
    lost = len(values) - len(known)
    if lost:
        return f"{lost} of {len(values)} frames hold values that are no numbers."
    least = min(known, key=known.__getitem__)
    if known[least] == plots.EQUAL:
        return "Every frame is equal to the reference's."
    return (
        f"PSNR to the reference's frame, in dB; more is more alike, and {plots.EQUAL:g} stands for equal. "
        f"Lowest: frame {least}, {known[least]:.1f} dB."
    )


def _layers(number: int, components: Mapping[str, Mapping[str, Any]]) -> Iterator[Figure]:
    for name, layers in components.items():
        shown = dict(list(layers.items())[:MOST_LAYERS])
        left = len(layers) - len(shown)
        values = [_number(value) for value in shown.values()]
        yield Figure(
            f"Weight drift by layer: {name}",
            "The largest relative difference of a tensor in each layer that differs from the reference's, in the "
            f"model's order.{f' {left} more layers are left out.' if left > 0 else ''}",
            _drawn("bars", f"layers-{number}-{name}", list(shown), values, "relative difference"),
            ("layer", "relative difference"),
            [(layer, _text(value)) for layer, value in shown.items()],
        )


def _ladder(name: str, trainer: str, rungs: Sequence[Mapping[str, Any]]) -> Figure:
    rates = [_number(rung["rate"]) for rung in rungs]
    weights = [_number(rung["step"] if rung["weights"] is None else rung["weights"]) for rung in rungs]
    latents = [_number(rung["latents"]) for rung in rungs]
    return Figure(
        f"Drift by learning rate ({trainer})",
        "How far weights and sample move when the model is trained at each rate. In proportion is a straight line; "
        "at the rate zero nothing may move.",
        _drawn("ladder", name, rates, weights, latents),
        ("rate", "a value moves", "weights", "latents", "frames"),
        [
            tuple(_text(rung[key]) for key in ("rate", "step", "weights", "latents", "frames"))
            for rung in rungs
        ],
    )


def _drawn(kind: str, name: str, *arguments: Any) -> str | None:
    svg: str | None = getattr(plots, kind)(name, *arguments) if plots.available() else None
    return svg


def _number(value: Any) -> float:
    """A number; NaN and Inf stand in the report as text, and neither is a place on a plot."""
    number = inf if value is None else float(value)
    return number if isfinite(number) else inf


def _text(value: Any) -> str:
    return "-" if value is None else f"{float(value):.4g}"
