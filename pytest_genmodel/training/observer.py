"""What the optimizers of a process really did: rates, gradients, and whether parameters moved.

A trainer's own word is not taken: torch calls global hooks around every step of every optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.training.saves import SaveWatch
from pytest_genmodel.training.trace import TRACED, side_by_side, trace_of

if TYPE_CHECKING:
    import torch


@dataclass
class Observed:
    """The steps that were seen.

    `rates` holds for each step the rates of its parameter groups (Adafactor's relative steps keep none);
    `trace` what each of the first steps began from (see `trace_of`); `with_gradient` whether any gradient of the
    step was not zero; `has_state` whether any optimizer keeps tensors of its own (moments), and `has_moments` whether
    any of them is not zero; `moved` and `kept` count parameters by
    whether their bits changed since their first step, `moved_inside` those that an optimizer's step changed,
    `moved_outside` those that changed while no optimizer was stepping. `optimizers` names the classes
    (`torch.optim.adamw.AdamW`), `options` holds for each the plain settings of its first group and the dtypes of its
    parameters, `complete` says whether the process came to its end, so that the counts are known. `started_from`
    holds for each parameter its shape and the digest of its values before its first step, `saves` the files that
    tensors were written to, each with whether trained parameters themselves were among them.
    """

    rates: list[tuple[float, ...]] = field(default_factory=list)
    trace: list[dict[str, str]] = field(default_factory=list)
    with_gradient: list[bool] = field(default_factory=list)
    finite_gradients: list[bool] = field(default_factory=list)
    optimizers: list[str] = field(default_factory=list)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    has_state: bool = False
    has_moments: bool = False
    moved: int = 0
    kept: int = 0
    moved_inside: int = 0
    moved_outside: int = 0
    complete: bool = False
    started_from: list[tuple[tuple[int, ...], str]] = field(default_factory=list)
    saves: dict[str, bool] = field(default_factory=dict)

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
        rates = [tuple(step) for step in values["rates"]]
        started = [(tuple(shape), digest) for shape, digest in values["started_from"]]
        return cls(**{**values, "rates": rates, "started_from": started})


def together(seen: Sequence[Observed]) -> Observed:
    """One observation of several processes that trained side by side: the steps of the one that took most.

    A rate, a movement or a bad gradient in any of them counts.
    """
    if not seen:
        return Observed()
    first, *others = sorted(seen, key=lambda observed: -observed.steps)
    first.trace = [
        side_by_side([observed.trace[step] for observed in seen if step < len(observed.trace)])
        for step in range(len(first.trace))
    ]
    for other in others:
        for step, rates in enumerate(other.rates):
            first.rates[step] = (*first.rates[step], *rates)
            first.with_gradient[step] |= other.with_gradient[step]
            first.finite_gradients[step] &= other.finite_gradients[step]
        first.optimizers = list(dict.fromkeys((*first.optimizers, *other.optimizers)))
        first.options = {**other.options, **first.options}
        first.has_state |= other.has_state
        first.has_moments |= other.has_moments
        first.moved, first.kept = max(first.moved, other.moved), max(first.kept, other.kept)
        first.moved_inside = max(first.moved_inside, other.moved_inside)
        first.moved_outside = max(first.moved_outside, other.moved_outside)
        first.complete &= other.complete
        first.started_from = first.started_from or other.started_from
        for file, trained in other.saves.items():
            first.saves[file] = first.saves.get(file, False) or trained
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
        self._saves: SaveWatch | None = None
        self._handles = (
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        )

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Look at the step that is about to be taken; a closure, which makes its gradients, is watched too."""
        seen = self.seen
        rates = [group.get("lr") for group in optimizer.param_groups]
        seen.rates.append(tuple(float(rate) for rate in rates if rate is not None))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        if name not in seen.optimizers:
            seen.optimizers.append(name)
            seen.options[name] = _options(optimizer, parameters)
        if self._saves is None:  # not before: torch is still being imported when the hooks are set
            self._saves = SaveWatch(self._addresses, self._saved)
        for parameter in parameters:
            now = _values(parameter)
            if id(parameter) not in self._first:
                self._first[id(parameter)] = (parameter, now)
                seen.started_from.append((tuple(parameter.shape), now))
            self._note(parameter, now, self._outside)
        if len(seen.trace) < TRACED:
            seen.trace.append(trace_of(optimizer, [self._last[id(parameter)] for parameter in parameters]))
        seen.with_gradient.append(False)
        seen.finite_gradients.append(True)
        watched = _watched_closure(args, kwargs, lambda: self._note_gradients(parameters))
        if watched is None:
            self._note_gradients(parameters)
        return watched

    def _note_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
        self.seen.with_gradient[-1] |= any(bool(gradient.any()) for gradient in dense)
        self.seen.finite_gradients[-1] &= all(bool(gradient.isfinite().all()) for gradient in dense)

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

    def _addresses(self) -> set[int]:
        return {parameter.data_ptr() for parameter, _ in self._first.values() if parameter.numel()}

    def _saved(self, file: str, trained: bool) -> None:
        self.seen.saves[file] = trained
        self._after_step(self.seen)

    def finish(self) -> Observed:
        """Take the hooks off and count which parameters have other bits than before their first step."""
        for handle in self._handles:
            handle.remove()
        if self._saves is not None:
            self._saves.remove()
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


def _options(optimizer: Any, parameters: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What was set: plain values of the optimizer itself and of its first group, and the parameters' dtypes."""
    group = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    values = {name: value for name, value in vars(optimizer).items() if not name.startswith("_")} | group
    plain = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
    return plain | {"dtypes": sorted({str(p.dtype).removeprefix("torch.") for p in parameters})}


def _watched_closure(args: Any, kwargs: Any, after: Callable[[], None]) -> tuple[Any, Any] | None:
    """The arguments of `step` with `after` called behind each call of its closure; None where it has none."""
    place = 1 if len(args) > 1 else None  # the optimizer itself comes first
    closure = args[1] if place else kwargs.get("closure")
    if not callable(closure):
        return None

    def watched(*inner: Any, **named: Any) -> Any:
        loss = closure(*inner, **named)
        after()
        return loss

    if place:
        return (args[0], watched, *args[2:]), kwargs
    return args, {**kwargs, "closure": watched}


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
