"""Where two traces part: the first event, in the order of the calls, that is not the same in both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_genmodel.pipelines.tracing import Event, Trace, Value
from pytest_genmodel.pipelines.watching import CallKey
from pytest_genmodel.tensors.fingerprint import Fingerprint

Kind = Literal["arguments", "results", "course"]
MOST_LISTED = 20


@dataclass(frozen=True)
class Parting:
    """One event at which two traces part.

    kind: "results": a call was given the same and gives something else; "arguments": a call is given something
        else, so that the code around it (`owner`, None for the pipeline's own) is where to look; "course": the two
        make different calls from here on.
    ours, theirs: the event on each side; None where a side's run ended before.
    owner: the call whose code or state is in question.
    before: the last event that was the same in both.
    paths: the values that differ, by path, worst news first.
    distance: the largest relative difference among them, as far as fingerprints tell.
    given: that of what the call was given, or of what came just before; 0 where that was equal bit by bit.
    alone: calls between `before` and here that only one side made, as (side, place).
    agreed: number of events before this one that were the same.
    """

    kind: Kind
    ours: Event | None
    theirs: Event | None
    owner: CallKey | None
    before: Event | None
    paths: tuple[str, ...] = ()
    distance: float = 0.0
    given: float = 0.0
    alone: tuple[tuple[str, str], ...] = ()
    agreed: int = 0

    @property
    def event(self) -> Event:
        """The event, as the reference has it where it has one."""
        event = self.theirs or self.ours
        assert event is not None
        return event


@dataclass(frozen=True)
class Partings:
    """The first event whose bits differ, and the first that differs by more than rounding; None where none does."""

    bits: Parting | None
    far: Parting | None
    compared: int


def partings(ours: Trace, theirs: Trace, device: str = "cpu") -> Partings:
    """Walk both traces in step, over the modules that both of them called.

    A module that one side alone has (a LoRA's factors, a layer under another name) is passed over; what it does shows
    in what its neighbour is given, or in what the module around it gives back.
    """
    shared = {event.call[:3] for event in ours.events} & {event.call[:3] for event in theirs.events}
    left, right = _of(ours, shared), _of(theirs, shared)
    bits: Parting | None = None
    before: tuple[Event, Event] | None = None
    given: dict[CallKey, float] = {}
    last = 0.0
    for number, (a, b) in enumerate(zip(left, right, strict=False)):
        found = _course(a, b) if (a.call, a.is_end) != (b.call, b.is_end) else _values(a, b, device)
        if found is not None:
            parting, is_far = found
            if bits is None or is_far:  # to place one takes a walk through both traces
                so_far = given.get(b.call, 0.0) if b.is_end else last
                parting = replace(_placed(parting, before, ours, theirs, number), given=so_far)
                bits = bits or parting
            if is_far:
                return Partings(bits, parting, number)
        last = found[0].distance if found is not None else 0.0
        if last and not b.is_end:
            given[b.call] = last
        before = a, b
    compared = min(len(left), len(right))
    if len(left) != len(right) and not (ours.stopped or theirs.stopped):
        rest = left[compared:] or right[compared:]
        end = Parting(
            "course",
            rest[0] if len(left) > compared else None,
            rest[0] if len(right) > compared else None,
            rest[0].parent,
            None,
        )
        end = _placed(end, before, ours, theirs, compared)
        return Partings(bits or end, end, compared)
    return Partings(bits, None, compared)


def _of(trace: Trace, shared: Collection[tuple[str, str, str]]) -> list[Event]:
    return [event for event in trace.events if event.call[:3] in shared]


def _course(a: Event, b: Event) -> tuple[Parting, bool]:
    return Parting("course", a, b, b.parent if not b.is_end else b.call, None), True


def _values(a: Event, b: Event, device: str) -> tuple[Parting, bool] | None:
    """What differs between two events of one call, and whether by more than rounding; None where nothing does."""
    if a.values == b.values:
        return None
    apart: list[tuple[float, str]] = []
    is_far = False
    for path, (ours, theirs) in _matched(a.values, b.values).items():
        if ours == theirs:
            continue
        if isinstance(ours, Fingerprint) and isinstance(theirs, Fingerprint):
            is_far = is_far or not ours.is_close(theirs, device)
            apart.append((ours.distance(theirs), path))
        elif None not in (ours, theirs) or not isinstance(ours or theirs, str):
            is_far = True  # a plain value that one side alone hands over is what its signature takes, no more
            apart.append((float("inf"), path))
    if not apart:
        return None
    apart.sort(key=lambda one: -one[0])
    owner = b.call if b.is_end else b.parent
    kind: Kind = "results" if b.is_end else "arguments"
    paths = tuple(path for _, path in apart)
    return Parting(kind, a, b, owner, None, paths, apart[0][0]), is_far


def _matched(
    ours: Sequence[Value], theirs: Sequence[Value]
) -> dict[str, tuple[Fingerprint | str | None, Fingerprint | str | None]]:
    """Pairs under the reference's paths: by path, then what is left by its order (a wrapper renames parameters)."""
    if len(ours) == len(theirs):
        return {theirs[n][0]: (ours[n][1], theirs[n][1]) for n in range(len(theirs))}
    mine, other = dict(ours), dict(theirs)
    renamed = zip(
        [path for path in other if path not in mine],
        [path for path in mine if path not in other],
        strict=False,
    )
    names = {path: path for path in other if path in mine} | dict(renamed)
    pairs = {path: (mine.get(names.get(path, path)), value) for path, value in theirs}
    taken = set(names.values())
    return pairs | {path: (value, None) for path, value in ours if path not in taken}


def _placed(
    parting: Parting, before: tuple[Event, Event] | None, ours: Trace, theirs: Trace, agreed: int
) -> Parting:
    """Add what came before, and the calls in between that one side alone makes."""
    alone = [
        (side, event.call.place)
        for side, trace, last, now in (
            ("candidate", ours, before[0] if before else None, parting.ours),
            ("reference", theirs, before[1] if before else None, parting.theirs),
        )
        for event in _between(trace.events, last, now)
        if not event.is_end
    ]
    unique = tuple(dict.fromkeys(alone))[:MOST_LISTED]
    return replace(parting, before=before[1] if before else None, alone=unique, agreed=agreed)


def _between(events: Sequence[Event], last: Event | None, now: Event | None) -> Sequence[Event]:
    start = next((n + 1 for n, event in enumerate(events) if event is last), 0)
    stop = next((n for n, event in enumerate(events) if event is now), len(events))
    return events[start:stop]
