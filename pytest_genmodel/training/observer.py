"""What the optimizers of a process really did: rates, gradients, and whether parameters moved.

A trainer's own word is not taken: torch calls global hooks around every step of every optimizer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.training.old_gradients import GradientWatch
from pytest_genmodel.training.ranks import parted, shared, side_by_side_in
from pytest_genmodel.training.saves import SaveWatch
from pytest_genmodel.training.trace import TRACED, own_part, side_by_side, trace_of

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
    holds for each parameter its shape and the digest of its values before its first step, `ended_with` the digest at
    the end, `saves` the files that tensors were written to, each with whether trained parameters themselves were
    among them. `old_gradients` holds (step, `again` or `still`, share) for steps with gradients of an earlier one.

    Of a run in several processes `processes` took steps, `world` were started by what their launcher says, and
    `connected` tells whether torch.distributed was set up; `apart` is the first step that some took from other
    weights (from the first on: in parameters of the shapes `apart_shapes`), `shared_files` are those that more than
    one of them wrote, each with their number.
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
    ended_with: list[str] = field(default_factory=list)
    saves: dict[str, bool] = field(default_factory=dict)
    old_gradients: list[tuple[int, str, float]] = field(default_factory=list)
    rank: int | None = None
    world: int = 1
    connected: bool = False
    processes: int = 1
    apart: int | None = None
    apart_shapes: list[tuple[int, ...]] = field(default_factory=list)
    shared_files: dict[str, int] = field(default_factory=dict)

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
        old = [(step, kind, share) for step, kind, share in values["old_gradients"]]
        return cls(**{**values, "rates": rates, "started_from": started, "old_gradients": old})


def together(seen: Sequence[Observed]) -> Observed:
    """One observation of several processes that trained side by side: the steps of the one that took most.

    A rate, a movement or a bad gradient in any of them counts.
    """
    if not seen:
        return Observed()
    first, *others = sorted(seen, key=lambda observed: -observed.steps)
    ranks = side_by_side_in(seen)
    first.processes, first.shared_files = max(1, len(ranks)), shared(ranks)
    first.apart, first.apart_shapes = parted(ranks)
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
        if not first.started_from:
            first.started_from, first.ended_with = other.started_from, other.ended_with
        first.old_gradients = first.old_gradients or other.old_gradients
        first.world = max(first.world, other.world)
        first.connected |= other.connected
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

        self.seen = Observed(rank=_number("RANK"), world=_number("WORLD_SIZE") or 1)
        self._gradients = GradientWatch()
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
        seen.with_gradient.append(False)
        seen.finite_gradients.append(True)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        if name not in seen.optimizers:
            seen.optimizers.append(name)
            seen.options[name] = _options(optimizer, parameters)
        seen.connected = seen.connected or _is_connected()
        if self._saves is None:  # not before: torch is still being imported when the hooks are set
            self._saves = SaveWatch(self._addresses, self._saved)
        for parameter in parameters:
            now = _values(parameter)
            if id(parameter) not in self._first:
                self._first[id(parameter)] = (parameter, now)
                seen.started_from.append((tuple(own_part(parameter).shape), now))
            self._note(parameter, now, self._outside)
        if len(seen.trace) < TRACED:
            seen.trace.append(trace_of(optimizer, [self._last[id(parameter)] for parameter in parameters]))
        watched = _watched_closure(args, kwargs, lambda: self._note_gradients(parameters))
        if watched is None:
            self._note_gradients(parameters)
            if old := self._gradients.before(optimizer):
                seen.old_gradients.append((seen.steps, *old))
        return watched

    def _note_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        gradients = [own_part(p.grad) for p in parameters if p.grad is not None]
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
                own_part(value)
                for state in optimizer.state.values()
                for value in state.values()
                if hasattr(value, "any") and getattr(value, "ndim", 0) > 0  # a step count has no axes
            ]
            self.seen.has_state = self.seen.has_state or bool(moments)
            self.seen.has_moments = any(bool(value.any()) for value in moments)
        self._gradients.after(optimizer)
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
        self._gradients.remove()
        if self._saves is not None:
            self._saves.remove()
        changed = empty = 0
        for parameter, first in self._first.values():
            now = _values(parameter)
            changed += now != first
            empty += not own_part(parameter).numel()  # another rank's part: there is nothing here to move
            self.seen.ended_with.append(now)
            self._note(parameter, now, self._outside)
        self.seen.moved, self.seen.kept = changed, len(self._first) - changed - empty
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


def _number(name: str) -> int | None:
    """What a launcher (torchrun, accelerate) says of this process in its environment."""
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else None


def _is_connected() -> bool:
    from torch import distributed

    return distributed.is_available() and distributed.is_initialized()


def _values(parameter: torch.Tensor) -> str:
    from pytest_genmodel.tensors import digest

    return digest(
        own_part(parameter.detach()) + 0.0
    )  # an optimizer at rate 0 makes +0.0 of -0.0: the same value


@contextmanager
def observe_optimizers() -> Iterator[Observed]:
    """Watch every optimizer of this process; the result is complete when the context ends."""
    watch = OptimizerWatch()
    try:
        yield watch.seen
    finally:
        watch.finish()
