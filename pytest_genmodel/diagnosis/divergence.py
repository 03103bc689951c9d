"""The first divergence of two samples: which module, what it was given, and what differs in it.

Two runs a side. The first keeps fingerprints; the second stops at the place where they part and copies the tensors
there. The sides are run one after the other, so that one model at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.module_difference import Difference, setting_differences, state_differences
from pytest_genmodel.pipelines.module_state import ModuleState, settings_of_pipeline, state_of
from pytest_genmodel.pipelines.parting import Parting, partings
from pytest_genmodel.pipelines.tracing import Caught, Side, catch, make_room, trace
from pytest_genmodel.pipelines.watching import SCHEDULER, CallKey

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.tensors import Comparison

DRIFT = 100.0
"""How many times larger than the difference of its inputs that of a module's output may be and still count as
rounding that grows. Norms and attention of the tiny and of the trained model reach 20."""


@dataclass(frozen=True, eq=False)
class Divergence:
    """Where two samples part, and why.

    values: what differs at that place, by path, as compared whole.
    differences: what differs in the call that owns the place; empty where it is equal on both sides.
    within_rounding: whether nothing there or after it is further apart than rounding takes it.
    grown: for rounding that grew: the place where it began.
    """

    parting: Parting
    values: Mapping[str, Comparison]
    differences: tuple[Difference, ...]
    class_name: str
    is_training: bool
    within_rounding: bool = False
    grown: Parting | None = None

    @property
    def wears_adapter(self) -> bool:
        """Whether one side alone has wrapped the module with an adapter."""
        return any(one.is_adapter for one in self.differences)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the second run of a side brought for one parting."""

    caught: Mapping[CallKey, Caught]
    states: Mapping[CallKey, ModuleState | None]
    settings: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Found:
    """What came of a search: no divergence where the traces are equal; a second where the first is rounding's size.

    `compared` is the number of events that were held against each other.
    """

    divergences: tuple[Divergence, ...]
    compared: int


def find_divergence(
    ours: Side, theirs: Side, probe: Probe, until: int | None = None, *, latents_agree: bool = False
) -> Found:
    """Find where two samples part.

    Args:
        ours, theirs: the two; they may be one pipeline in two contexts.
        probe: the inputs.
        until: steps after which it is known that they have parted; None to look at the frames too.
        latents_agree: whether all latents are known to be equal, so that nothing in a denoiser is of interest.

    Raises:
        UnbackedError: tensors have no memory.
        LoadError, DamagedFileError: as `Pipeline.loaded`.
    """
    device = ours.pipeline.placement.device.split(":")[0]
    make_room(ours, theirs)
    reference = trace(theirs, probe, until, inside_denoisers=not latents_agree)
    make_room(theirs, ours)
    candidate = trace(ours, probe, until, inside_denoisers=not latents_agree)
    found = partings(candidate, reference, device)
    places = [parting for parting in dict.fromkeys((found.bits, found.far)) if parting is not None]
    called: dict[str, set[str]] = {}
    for event in candidate.events:
        called.setdefault(event.call.component, set()).add(event.call.path)
    del candidate, reference
    if not places:
        return Found((), found.compared)
    mine = _look_again(ours, probe, places, called)
    make_room(ours, theirs)
    other = _look_again(theirs, probe, places, called)
    told = [_described(place, mine, other, ours, is_far=place is found.far) for place in places]
    if len(told) == 2:
        first, far = told
        if not first.differences:
            told = [replace(far, grown=places[0]) if not far.differences and _grew(far) else far]
        elif not far.differences and _grew(far):
            told = [first]
    return Found(tuple(told), found.compared)


def _look_again(side: Side, probe: Probe, places: list[Parting], called: Mapping[str, set[str]]) -> _Seen:
    wanted = set()
    for parting in places:
        if parting.kind != "course":
            wanted.add((parting.event.call, False))
        if parting.kind == "results":
            wanted.add((parting.event.call, True))
    with side.around():
        side.pipeline.require_backed()
        caught = catch(side, probe, wanted) if wanted else {}
        owners = {parting.owner for parting in places if parting.owner is not None}
        states = {
            owner: state_of(side.pipeline, owner, called.get(owner.component, set()) - {owner.path})
            for owner in owners
        }
        return _Seen(caught, states, settings_of_pipeline(side.pipeline))


def _described(parting: Parting, ours: _Seen, theirs: _Seen, side: Side, *, is_far: bool) -> Divergence:
    owner = parting.owner
    state = ours.states.get(owner) if owner is not None else None
    if owner is None:
        differences = setting_differences(ours.settings, theirs.settings)
    else:
        differences = state_differences(state, theirs.states.get(owner))
        if owner.component == SCHEDULER:  # its tables follow from its configuration
            differences = tuple(sorted(differences, key=lambda one: one.is_tensor))
    return Divergence(
        parting,
        _compared(parting, ours, theirs, _axes(parting, side)),
        differences,
        state.class_name if state is not None else "",
        bool(state is not None and state.is_training),
        within_rounding=not is_far,
    )


def _axes(parting: Parting, side: Side) -> tuple[str, ...]:
    """Names of the axes, for what is handed to and fro in the layout of the latents."""
    call, pipeline = parting.event.call, side.pipeline
    is_latents = call.component == SCHEDULER or (call.component in pipeline.denoisers and not call.path)
    return pipeline.family.latent_axes if is_latents else ()


def _compared(parting: Parting, ours: _Seen, theirs: _Seen, axes: tuple[str, ...]) -> dict[str, Comparison]:
    """The values that parted, compared whole; by place where the paths of the two sides differ in name."""
    import torch

    from pytest_genmodel.tensors import bitwise, compare

    mine, other = (seen.caught.get(parting.event.call, Caught()) for seen in (ours, theirs))
    left, right = (mine.results, other.results) if parting.event.is_end else (mine.arguments, other.arguments)
    if not left or not right:
        return {}
    if len(left) == len(right):
        left = dict(zip(right, left.values(), strict=True))
    found = {}
    for path in parting.paths:
        a, b = left.get(path), right.get(path)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            names = axes if axes and len(axes) == a.ndim == b.ndim else None
            found[path] = compare(a, b, bitwise, names=names)
    return found


def _grew(far: Divergence) -> bool:
    """Whether the place only shows rounding that began before it: what it was given was not equal bit by bit."""
    gaps = [one.relative_difference for one in far.values.values() if one.relative_difference is not None]
    gap, parting = max(gaps, default=far.parting.distance), far.parting
    return parting.kind != "course" and parting.given > 0 and gap <= DRIFT * parting.given
