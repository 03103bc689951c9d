"""Gradients that a step uses although they are older than it, as seen on one parameter of each optimizer.

A hook of the parameter sees each gradient that arrives in a backward pass, before it is added to `.grad`. What lies
there at a step is compared with what has arrived since the step before: an old gradient lies there again where
nothing arrived, and still where the sum of the two does.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

AGAIN, STILL = "again", "still"
LARGEST = 1 << 16
"""Values of the parameter that is watched: a copy of its gradient is kept from step to step."""
_ROUNDED = {"torch.float32": 1e-4, "torch.float64": 1e-6}
"""How far, as a share, rounding may take a sum of two gradients from the sum; 2e-2 in 16 bits."""
_EVEN = 0.05
"""Both are added alike (clipping and averaging scale both): otherwise it is no sum, but a trainer's own filter."""


@dataclass
class _Watched:
    """A parameter: what has arrived since its last step, and what its gradient was in that step."""

    parameter: torch.Tensor
    arrived: torch.Tensor | None = None
    old: torch.Tensor | None = None
    held: Any = None

    def take(self, gradient: torch.Tensor) -> None:
        """A backward pass brings `gradient`; nothing of it is changed."""
        with suppress(Exception):  # a backward pass must not fail for being watched
            new = gradient.detach().float()
            self.arrived = new.clone() if self.arrived is None else self.arrived + new


class GradientWatch:
    """Watches one parameter of each optimizer until `remove`; a trainer never fails for it."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._handles: list[Any] = []

    def before(self, optimizer: Any) -> tuple[str, float] | None:
        """What is old in the gradients of the step that is about to be taken, and its share; None if nothing is.

        `AGAIN`: they are those of the step before. `STILL`: those of the step before are in the sum.
        """
        with suppress(Exception):
            watched = self._watched.get(id(optimizer))
            return _old_in(watched) if watched is not None else None
        return None

    def after(self, optimizer: Any) -> None:
        """The step is over: keep its gradients; what arrives from now on belongs to the next one."""
        with suppress(Exception):
            watched = self._watched.get(id(optimizer)) or self._choose(optimizer)
            if watched is None:
                return
            gradient = watched.parameter.grad
            watched.arrived = None
            watched.old = gradient.detach().clone() if gradient is not None else None
            watched.held = weakref.ref(gradient) if gradient is not None else None

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watched.clear()

    def _choose(self, optimizer: Any) -> _Watched | None:
        """The largest parameter that is small enough and learns; none of several ranks' shards."""
        import torch

        fits = [
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.is_leaf
            and type(parameter.grad) is torch.Tensor
            and parameter.grad.layout == torch.strided
            and 1 < parameter.numel() <= LARGEST
            and bool(parameter.grad.any())
        ]
        if not fits:
            return None
        watched = _Watched(max(fits, key=lambda parameter: parameter.numel()))
        self._handles.append(watched.parameter.register_hook(watched.take))  # type: ignore[no-untyped-call]
        self._watched[id(optimizer)] = watched
        return watched


def _old_in(watched: _Watched) -> tuple[str, float] | None:
    import torch

    gradient, old, arrived = watched.parameter.grad, watched.old, watched.arrived
    if gradient is None or old is None or not bool(old.any()):
        return None
    if arrived is None:
        is_held = watched.held() is gradient
        return (AGAIN, 1.0) if is_held and torch.equal(gradient, old) else None
    return _share(gradient, old, arrived, _ROUNDED.get(str(gradient.dtype), 2e-2))


def _share(
    gradient: torch.Tensor, old: torch.Tensor, arrived: torch.Tensor, rounded: float
) -> tuple[str, float] | None:
    """The share of `old` in a gradient that is c x (old + arrived); None where it is no such sum."""
    ours, before, new = (value.detach().double().flatten().cpu() for value in (gradient, old, arrived))
    both = float(before @ new)
    spread = float(before @ before) * float(new @ new) - both**2
    if not spread > 100 * rounded**2 * float(before @ before) * float(new @ new):
        return None  # they point the same way: one cannot be told from the other
    of_old = (float(ours @ before) * float(new @ new) - float(ours @ new) * both) / spread
    of_new = (float(ours @ new) * float(before @ before) - float(ours @ before) * both) / spread
    size = float(ours.norm())
    rest = float((ours - of_old * before - of_new * new).norm())
    if not (of_new > 0 and rest <= rounded * size and abs(of_old / of_new - 1) <= _EVEN):
        return None
    return STILL, of_old * float(before.norm()) / size
