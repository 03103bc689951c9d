"""Where a running average lies on the way from what training started from to the trained weights.

With `start`, `raw` and `average`, the share is f = <average - start, raw - start> / |raw - start|^2: 0 at the start,
1 at the raw weights. What is not on the line between them is the residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FAR = 10.0
"""A tensor whose average is this many times further from the start than its raw weights did not come from there."""
ROUNDINGS = 8.0
"""Roundings of the stored dtype within which two values are one: a few updates, each written as d*e + (1-d)*p."""


@dataclass
class Way:
    """Sums over the tensors of an average.

    `moved` are those whose raw weights have other bits than at the start; of these `stuck` are averages that are the
    start bit for bit, `copied` those that are the raw weights but for rounding. `far` are averages that cannot have
    come from the start, `strayed` those that left it though the raw weights did not. `visible` says for each of them
    how long its way is, in roundings of the average's dtype. `is_coarse` says that the average has fewer digits than
    the raw weights.
    """

    moved: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    far: list[str] = field(default_factory=list)
    strayed: list[str] = field(default_factory=list)
    visible: dict[str, float] = field(default_factory=dict)
    along: float = 0.0
    squared: float = 0.0
    deviation: float = 0.0
    noise: float = 0.0
    roundings: float = 0.0
    is_coarse: bool = False

    def add(self, name: str, start: torch.Tensor, raw: torch.Tensor, average: torch.Tensor) -> None:
        """Take in one tensor; all three have one shape."""
        import torch

        eps = torch.finfo(average.dtype).eps if average.is_floating_point() else 0.0
        is_start, is_raw = is_same(average, start), _is_copy(average, raw, start)
        e, r, w = (tensor.double() for tensor in (average, raw, start))
        step, path = e - w, r - w
        rounding = ROUNDINGS * eps * float(torch.maximum(w.abs(), r.abs()).max()) * math.sqrt(w.numel())
        length, distance = float(path.norm()), float(step.norm())
        if not length:
            if distance > rounding:
                self.strayed.append(name)
            return
        self.moved.append(name)
        self.visible[name] = length / rounding if rounding else math.inf
        if is_start:
            self.stuck.append(name)
        if is_raw:
            self.copied.append(name)
        if not math.isfinite(distance) or distance > FAR * length + rounding:
            self.far.append(name)
            return
        along = float((step * path).sum())
        self.along += along
        self.squared += length**2
        self.deviation += float((step - along / length**2 * path).square().sum())
        errors = ROUNDINGS * eps * w.abs()
        self.noise += float((path * errors).square().sum())
        self.roundings += float(errors.square().sum())
        self.is_coarse |= eps > torch.finfo(raw.dtype).eps

    @property
    def share(self) -> float:
        """How far along the average is, over all tensors; NaN where nothing moved."""
        return self.along / self.squared if self.squared else math.nan

    @property
    def residual(self) -> float:
        """How far off the line it is, in units of the way."""
        return math.sqrt(self.deviation / self.squared) if self.squared else math.nan

    @property
    def uncertainty(self) -> float:
        """What rounding may do to the share."""
        return math.sqrt(self.noise) / self.squared if self.squared else math.nan

    @property
    def blur(self) -> float:
        """What rounding may do to the residual."""
        return math.sqrt(self.roundings / self.squared) if self.squared else math.nan


def is_same(average: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are one, bit for bit in the dtype of the first."""
    import torch

    return average.shape == other.shape and torch.equal(average, other.to(average.dtype))


def _is_copy(average: torch.Tensor, raw: torch.Tensor, start: torch.Tensor) -> bool:
    """Whether an average is the raw weights: diffusers reckons even a copy, as start - (start - raw)."""
    import torch

    if is_same(average, raw):
        return True
    eps = torch.finfo(average.dtype).eps if average.is_floating_point() else 0.0
    limit = 2 * eps * torch.maximum(raw.double().abs(), start.double().abs())
    return bool(((average.double() - raw.double()).abs() <= limit).all())


def left_the_start(start: torch.Tensor, average: torch.Tensor) -> bool:
    """Whether an average is further from the start than rounding takes it while nothing moves."""
    import torch

    eps = torch.finfo(average.dtype).eps if average.is_floating_point() else 0.0
    limit = ROUNDINGS * eps * float(start.double().abs().max()) if start.numel() else 0.0
    return not bool(((average.double() - start.double()).abs() <= limit).all())
