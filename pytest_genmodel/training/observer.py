"""What the optimizers of a process really did: rates, gradients, and whether parameters moved.

A trainer's own word is not taken: torch calls global hooks around every step of every optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class Observed:
    """The steps that were seen.

    `rates` holds for each step the rates of its parameter groups; `with_gradient` whether any gradient of the
    step was not zero; `has_state` whether any optimizer keeps tensors of its own (moments), and `has_moments`
    whether any of them is not zero; `moved` and `kept` count parameters by whether their bits changed since their
    first step, `moved_inside` those that an optimizer's step changed, `moved_outside` those that changed while no
    optimizer was stepping. `optimizers` names the classes (`torch.optim.adamw.AdamW`), `complete` says whether the
    process came to its end, so that the counts are known.
    """

    rates: list[tuple[float, ...]] = field(default_factory=list)
    with_gradient: list[bool] = field(default_factory=list)
    finite_gradients: list[bool] = field(default_factory=list)
    optimizers: list[str] = field(default_factory=list)
    has_state: bool = False
    has_moments: bool = False
    moved: int = 0
    kept: int = 0
    moved_inside: int = 0
    moved_outside: int = 0
    complete: bool = False

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return len(self.rates)

    @property
    def largest_rate(self) -> float:
        """The largest rate of any step and group; 0 where there was none."""
        return max((abs(rate) for step in self.rates for rate in step), default=0.0)

    @property
    def learned(self) -> bool:
        """Whether at least one step had a gradient that was not zero, and left moments behind.

        An optimizer without state (plain SGD) has no moments to leave; one whose moments are all zero after a step
        never used the gradients that lay there.
        """
        return any(self.with_gradient) and (self.has_moments or not self.has_state)

    def to_json(self) -> dict[str, Any]:
        """Plain values, to be read back by `from_json` in another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Observed:
        """What `to_json` gave."""
        return cls(**{**values, "rates": [tuple(step) for step in values["rates"]]})


def together(seen: Sequence[Observed]) -> Observed:
    """One observation of several processes that trained side by side: the steps of the one that took most.

    A rate, a movement or a bad gradient in any of them counts.
    """
    if not seen:
        return Observed()
    first, *others = sorted(seen, key=lambda observed: -observed.steps)
    for other in others:
        for step, rates in enumerate(other.rates):
            first.rates[step] = (*first.rates[step], *rates)
            first.with_gradient[step] |= other.with_gradient[step]
            first.finite_gradients[step] &= other.finite_gradients[step]
        first.optimizers = list(dict.fromkeys((*first.optimizers, *other.optimizers)))
        first.has_state |= other.has_state
        first.has_moments |= other.has_moments
        first.moved, first.kept = max(first.moved, other.moved), max(first.kept, other.kept)
        first.moved_inside = max(first.moved_inside, other.moved_inside)
        first.moved_outside = max(first.moved_outside, other.moved_outside)
        first.complete &= other.complete
    return first


class OptimizerWatch:
    """Hooks around every optimizer step of this process; `seen` grows, `finish` counts what moved.

    `after_step` is called when a step is over, for whoever wants to keep what was seen so far.
    """

    def __init__(self, after_step: Callable[[Observed], None] = lambda _: None) -> None:
        from torch.optim.optimizer import (
            register_optimizer_step_post_hook,
            register_optimizer_step_pre_hook,
        )

        self.seen = Observed()
        self._first: dict[int, tuple[torch.Tensor, str]] = {}
        self._last: dict[int, str] = {}
        self._inside: set[int] = set()
        self._outside: set[int] = set()
        self._after_step = after_step
        self._handles = (
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        )

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        seen = self.seen
        seen.rates.append(tuple(float(group["lr"]) for group in optimizer.param_groups))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        seen.with_gradient.append(any(bool(gradient.any()) for gradient in gradients))
        seen.finite_gradients.append(all(bool(gradient.isfinite().all()) for gradient in gradients))
        name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        if name not in seen.optimizers:
            seen.optimizers.append(name)
        for parameter in parameters:
            now = _values(parameter)
            self._first.setdefault(id(parameter), (parameter, now))
            self._note(parameter, now, self._outside)

    def _note(self, parameter: torch.Tensor, now: str, moved: set[int]) -> None:
        if self._last.get(id(parameter), now) != now:
            moved.add(id(parameter))
        self._last[id(parameter)] = now

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self._note(parameter, _values(parameter), self._inside)
        self.seen.moved_inside, self.seen.moved_outside = len(self._inside), len(self._outside)
        if not self.seen.has_moments:
            moments = [
                value
                for state in optimizer.state.values()
                for value in state.values()
                if hasattr(value, "any") and getattr(value, "ndim", 0) > 0  # a step count has no axes
            ]
            self.seen.has_state = self.seen.has_state or bool(moments)
            self.seen.has_moments = any(bool(value.any()) for value in moments)
        self._after_step(self.seen)

    def finish(self) -> Observed:
        """Take the hooks off and count which parameters have other bits than before their first step."""
        for handle in self._handles:
            handle.remove()
        changed = 0
        for parameter, first in self._first.values():
            now = _values(parameter)
            changed += now != first
            self._note(parameter, now, self._outside)
        self.seen.moved, self.seen.kept = changed, len(self._first) - changed
        self.seen.moved_outside = len(self._outside)
        self._first.clear()
        self.seen.complete = True
        return self.seen


def _values(parameter: torch.Tensor) -> str:
    from pytest_genmodel.tensors import digest

    return digest(parameter.detach() + 0.0)  # an optimizer at rate 0 makes +0.0 of -0.0: the same value


@contextmanager
def observe_optimizers() -> Iterator[Observed]:
    """Watch every optimizer of this process; the result is complete when the context ends."""
    watch = OptimizerWatch()
    try:
        yield watch.seen
    finally:
        watch.finish()
