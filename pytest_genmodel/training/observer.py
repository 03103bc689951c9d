"""What the optimizers of this process really did: rates, gradients, and whether parameters moved.

A trainer's own word is not taken: torch calls global hooks around every step of every optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class Observed:
    """The steps that were seen.

    `rates` holds for each step the rates of its parameter groups; `with_gradient` whether any gradient of the
    step was not zero; `has_state` whether any optimizer keeps tensors of its own (moments), and `has_moments`
    whether any of them is not zero; `moved` and `kept` count parameters by whether their bits changed since their
    first step.
    """

    rates: list[tuple[float, ...]] = field(default_factory=list)
    with_gradient: list[bool] = field(default_factory=list)
    finite_gradients: list[bool] = field(default_factory=list)
    has_state: bool = False
    has_moments: bool = False
    moved: int = 0
    kept: int = 0
    _before: dict[int, tuple[torch.Tensor, str]] = field(default_factory=dict)

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


@contextmanager
def observe_optimizers() -> Iterator[Observed]:
    """Watch every optimizer of the process; the result is complete when the context ends."""
    from torch.optim.optimizer import (
        register_optimizer_step_post_hook,
        register_optimizer_step_pre_hook,
    )

    from pytest_genmodel.tensors import digest

    observed = Observed()

    def values(parameter: torch.Tensor) -> str:
        return digest(parameter.detach() + 0.0)  # an optimizer at rate 0 makes +0.0 of -0.0: the same value

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        observed.rates.append(tuple(float(group["lr"]) for group in optimizer.param_groups))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        observed.with_gradient.append(any(bool(gradient.any()) for gradient in gradients))
        observed.finite_gradients.append(all(bool(gradient.isfinite().all()) for gradient in gradients))
        for parameter in parameters:
            if id(parameter) not in observed._before:
                observed._before[id(parameter)] = (parameter, values(parameter))

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        if observed.has_moments:
            return
        moments = [
            value
            for state in optimizer.state.values()
            for value in state.values()
            if hasattr(value, "any") and getattr(value, "ndim", 0) > 0  # a step count has no axes
        ]
        observed.has_state = observed.has_state or bool(moments)
        observed.has_moments = any(bool(value.any()) for value in moments)

    handles = (register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after))
    try:
        yield observed
    finally:
        for handle in handles:
            handle.remove()
        for parameter, first in observed._before.values():
            changed = values(parameter) != first
            observed.moved, observed.kept = observed.moved + changed, observed.kept + (not changed)
        observed._before.clear()
