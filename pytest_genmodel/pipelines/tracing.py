"""A trace: what went into and came out of every module of a sample, as fingerprints, in the order of the calls.

A trace holds no tensor: some 200 bytes for each one seen, whatever its size, so that the traces of two models that do
not fit into memory together can be held against each other.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.sampling import run_pipeline
from pytest_genmodel.pipelines.watching import SCHEDULER, CallKey, Leaf, StopWatchingError, Watcher, watched
from pytest_genmodel.tensors.fingerprint import Fingerprint, fingerprint

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe

Value = tuple[str, Fingerprint | str]
"""An argument or a result by its path: a tensor's fingerprint, or a plain value in words."""


@dataclass(frozen=True)
class Side:
    """A pipeline, and what is around each of its runs.

    `around` makes a context in which it runs (another global random state, a library with a bug), `pinned` says
    whether torch's global random state is set for a family that draws from it.
    """

    pipeline: Pipeline
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    pinned: bool = True


@dataclass(frozen=True, slots=True)
class Event:
    """A call that begins (`values` are its arguments) or ends (its results).

    `step` is the denoising step from 1 on, 0 before the first; what is no denoiser and no scheduler's has the number
    of steps that are done. `parent` is the call from inside which it was called, None for the pipeline's own code.
    """

    call: CallKey
    is_end: bool
    step: int
    values: tuple[Value, ...]
    parent: CallKey | None


@dataclass
class Trace:
    """The events of one run; `stopped` says that it was broken off after the steps that were asked for."""

    events: list[Event] = field(default_factory=list)
    stopped: bool = False

    @property
    def calls(self) -> int:
        """Number of calls that were seen to begin."""
        return sum(not event.is_end for event in self.events)


class _Tracer:
    """Keeps a fingerprint of everything it is told of."""

    def __init__(self, trace: Trace, denoisers: Collection[str], until: int | None) -> None:
        self.trace = trace
        self.denoisers = denoisers
        self.until = until
        self.done = 0
        self.denoising = False
        self.open: list[CallKey] = []
        self.known: dict[int, tuple[weakref.ref[torch.Tensor], int, Fingerprint]] = {}

    def enter(self, key: CallKey, given: Callable[[], Iterator[Leaf]]) -> None:
        self.denoising = self.denoising or key.component in self.denoisers
        self._add(key, False, given)
        self.open.append(key)

    def leave(self, key: CallKey, gave: Callable[[], Iterator[Leaf]]) -> None:
        while self.open and self.open.pop() != key:
            pass  # a call that raised, and was caught, never ends
        self._add(key, True, gave)
        if key.component == SCHEDULER and key.method == "step":
            self.done += 1
            if self.until is not None and self.done >= self.until:
                self.trace.stopped = True
                raise StopWatchingError

    def _add(self, key: CallKey, is_end: bool, listed: Callable[[], Iterator[Leaf]]) -> None:
        is_step = key.component in self.denoisers or key.component == SCHEDULER
        step = self.done + 1 if self.denoising and is_step else self.done
        values = tuple(
            (path, value if isinstance(value, str) else self._of(value)) for path, value in listed()
        )
        parent = self.open[-1] if self.open else None
        self.trace.events.append(Event(key, is_end, step, values, parent))

    def _of(self, tensor: torch.Tensor) -> Fingerprint:
        """What one module gives the next one takes: the same object, unwritten since, is looked at once."""
        known = self.known.get(id(tensor))
        version = -1 if tensor.is_inference() else tensor._version
        if known is not None and known[0]() is tensor and known[1] == version != -1:
            return known[2]
        found = fingerprint(tensor)
        self.known[id(tensor)] = (weakref.ref(tensor), version, found)
        return found


def trace(side: Side, probe: Probe, until: int | None = None, *, inside_denoisers: bool = True) -> Trace:
    """Sample once and keep a fingerprint of whatever goes in and comes out of every module.

    Args:
        side: the pipeline; it is loaded, and left as it was.
        probe: the inputs.
        until: the number of steps after which the run is broken off; None to see the frames too.
        inside_denoisers: whether the modules of denoisers are watched; off where all latents are known to agree.

    Raises:
        UnbackedError: tensors have no memory.
        LoadError, DamagedFileError: as `Pipeline.loaded`.
    """
    found = Trace()
    family = side.pipeline.family
    with side.around():
        side.pipeline.require_backed()
        denoisers = family.live_denoisers(side.pipeline.diffusers)
        skip = () if inside_denoisers else tuple(denoisers)
        run_watched(side, probe, _Tracer(found, denoisers, until), skip=skip)
    return found


def run_watched(
    side: Side,
    probe: Probe,
    watcher: Watcher,
    only: Collection[tuple[str, str, str]] | None = None,
    skip: Collection[str] = (),
) -> None:
    """Sample with `watcher` on every call, or on those in `only`; it ends where the watcher has seen enough.

    Call it inside `side.around()`, with the pipeline loaded.
    """
    pipeline = side.pipeline
    live = pipeline.diffusers
    with watched(live, watcher, only, skip):
        try:
            run_pipeline(
                live,
                pipeline.family,
                pipeline.checkpoint,
                probe,
                pipeline.placement.device,
                pipeline.progress,
                pinned=side.pinned,
            )
        except StopWatchingError:
            live.maybe_free_model_hooks()


def make_room(before: Side, after: Side) -> None:
    """Free what one side holds and the next does not need, before that is loaded.

    A live pipeline is held by cycles: without a collection two models would be in memory while the next one loads.
    """
    one, other = before.pipeline, after.pipeline
    if one is other or one.residency is not other.residency or one.residency.limit > 1:
        return
    one.release(keep=[other.content_key(name) for name in other.components])
    gc.collect()


@dataclass(frozen=True, eq=False)
class Caught:
    """The tensors of one call, copies on the CPU, by path; plain values as text. None where the call was not made."""

    arguments: Mapping[str, torch.Tensor | str] | None = None
    results: Mapping[str, torch.Tensor | str] | None = None


class _Catcher:
    """Copies arguments and results of single calls, and ends the run when it has all of them."""

    def __init__(self, wanted: Collection[tuple[CallKey, bool]]) -> None:
        self.wanted = set(wanted)
        self.caught: dict[tuple[CallKey, bool], dict[str, torch.Tensor | str]] = {}

    def enter(self, key: CallKey, given: Callable[[], Iterator[Leaf]]) -> None:
        self._take(key, False, given)

    def leave(self, key: CallKey, gave: Callable[[], Iterator[Leaf]]) -> None:
        self._take(key, True, gave)

    def _take(self, key: CallKey, is_end: bool, listed: Callable[[], Iterator[Leaf]]) -> None:
        if (key, is_end) not in self.wanted:
            return
        self.caught[key, is_end] = {
            path: value if isinstance(value, str) else value.detach().to("cpu", copy=True)
            for path, value in listed()
        }
        if self.caught.keys() == self.wanted:
            raise StopWatchingError


def catch(side: Side, probe: Probe, wanted: Collection[tuple[CallKey, bool]]) -> dict[CallKey, Caught]:
    """Sample again, up to the calls of interest, and give their tensors whole.

    Args:
        side: as for `trace`; call it inside `side.around()`.
        probe: the same as for the trace.
        wanted: calls, each with whether its results (True) or its arguments (False) are wanted.
    """
    side.pipeline.require_backed()
    catcher = _Catcher(wanted)
    run_watched(side, probe, catcher, {key[:3] for key, _ in wanted})
    return {
        key: Caught(catcher.caught.get((key, False)), catcher.caught.get((key, True)))
        for key in {key for key, _ in wanted}
    }
