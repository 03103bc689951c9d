"""A divergence in words: the one finding that says where two samples part, what differs there, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.difference import how_far
from pytest_genmodel.diagnosis.divergence import Divergence
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.pipelines.parting import Parting
from pytest_genmodel.pipelines.tracing import Event
from pytest_genmodel.pipelines.watching import FORWARD, SCHEDULER

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison

MOST_TOLD = 3
"""Differences that stand in the sentence; the evidence has `MOST_LISTED`."""
MOST_LISTED = 20


@dataclass(frozen=True)
class Allowed:
    """What the contract lets differ: weights, by component, and whether the candidate may wear an adapter."""

    weights: Callable[[str], bool] = lambda _: False
    adapter: bool = False


NOTHING = Allowed()


def divergence_finding(
    found: Divergence, allowed: Allowed = NOTHING, severity: Severity = Severity.ERROR
) -> Finding:
    """Say where two samples part.

    Args:
        found: the place.
        allowed: what the contract lets differ: a divergence there is a note.
        severity: how much any other divergence weighs.
    """
    parting = found.parting
    event = parting.event
    code = _code(found, allowed)
    is_meant = _is_meant(found, allowed)
    told = [one.text for one in found.differences[:MOST_TOLD]]
    if told and parting.owner is None and parting.kind == "arguments":
        told[0] = f"of what the pipeline goes by differs: {told[0]}"
    more = len(found.differences) - len(told)
    what = "; ".join(told) + (f"; and {more} more" if more > 0 else "")
    return Finding(
        code,
        f"{_sentence(found)}{f'; {what}' if what else ''}{_behind(found)}",
        component=event.call.component if parting.owner is None else parting.owner.component,
        location=_location(found),
        severity=Severity.NOTE if is_meant or code == "GM955" else severity,
        cause=_cause(found, code, is_meant),
        action="Nothing to do here: the contract lets this differ, and what comes after it follows from it."
        if is_meant
        else None,
        evidence=_evidence(found),
    )


def unseen_finding(compared: int) -> Finding:
    """Say that samples which differed were made again, and their traces are equal."""
    return Finding(
        "GM956",
        f"made again with every module watched, the two sides are equal in all {compared} events",
        location="trace",
    )


def _code(found: Divergence, allowed: Allowed) -> str:
    """The rule: of several differences in one module the first that the contract does not allow decides."""
    if found.grown is not None or (found.within_rounding and not found.differences):
        return "GM955"
    if found.parting.kind == "course":
        return "GM953"
    if found.parting.owner is None:
        return "GM952"
    if not found.differences:
        return "GM954"
    may_differ = allowed.weights(found.parting.owner.component)
    first = next(
        (one for one in found.differences if not (one.is_tensor and may_differ)), found.differences[0]
    )
    return "GM950" if first.is_tensor else "GM951"


def _is_meant(found: Divergence, allowed: Allowed) -> bool:
    owner = found.parting.owner
    if owner is None or not found.differences:
        return False
    if found.wears_adapter:
        return allowed.adapter
    return allowed.weights(owner.component) and all(one.is_tensor for one in found.differences)


def _sentence(found: Divergence) -> str:
    parting = found.parting
    if found.grown is not None:
        return (
            f"rounding grows: {_call(found.grown.event)} is {found.grown.distance:.2g} off, and at "
            f"{_call(parting.event)} {parting.distance:.2g} can no longer be called rounding; no module on the way "
            "differs in itself"
        )
    if parting.kind == "course":
        return _course(parting)
    values, kind = _values(found), f"{found.class_name}; " if found.class_name else ""
    if parting.kind == "results":
        agree = "its inputs agree" if not parting.given else f"its inputs agree to {parting.given:.1g}"
        return f"{_call(parting.event, kind)}: {agree}, and {values}"
    if parting.owner is None:
        last = f" (last: {_call(parting.before)})" if parting.before else ""
        before = (
            f"the {parting.agreed} events before it agree{last}"
            if parting.agreed
            else "it is the first of all"
        )
        return f"the first call whose inputs differ is {_call(parting.event)}: {values}; {before}"
    owner, inner = parting.owner.place, _inside(parting, parting.event)
    return (
        f"in the code of {owner} ({kind}call {parting.owner.number}, {when(parting.event)}), {_between(parting)}: "
        f"the inputs of {owner.rpartition('.')[2]} agree, and those of {inner} do not: {values}"
    )


def _call(event: Event, kind: str = "") -> str:
    return f"{event.call.place} ({kind}call {event.call.number}, {when(event)})"


def when(event: Event) -> str:
    """When the event was: `step 3`, `before the first step`, `after step 4`."""
    if event.step == 0:
        return "before the first step"
    is_step = event.call.component == SCHEDULER or event.call.component.startswith(("transformer", "unet"))
    return f"step {event.step}" if is_step else f"after step {event.step}"


def _course(parting: Parting) -> str:
    ours, theirs = parting.ours, parting.theirs
    mine = _did(ours) if ours is not None else "it comes to its end"
    other = _did(theirs) if theirs is not None else "it comes to its end"
    last = f"after {_call(parting.before)} " if parting.before else ""
    return f"{last}the candidate goes another way: {mine}, where the reference {other}"


def _did(event: Event) -> str:
    return f"{'ends' if event.is_end else 'calls'} {_call(event)}"


def _between(parting: Parting) -> str:
    before, now = parting.before, _inside(parting, parting.event)
    if before is None or before.call == parting.owner:
        return f"before it calls {now}"
    text = f"between {_inside(parting, before)} and {now}"
    if parting.alone:
        side, place = parting.alone[0]
        text += f" (where the {side} alone calls {place})"
    return text


def _inside(parting: Parting, event: Event) -> str:
    """The place of a call without that of the call around it."""
    around = parting.owner.place if parting.owner is not None else ""
    return event.call.place.removeprefix(f"{around}.") or event.call.place


def _values(found: Divergence) -> str:
    parting = found.parting
    path = parting.paths[0] if parting.paths else ""
    comparison = found.values.get(path)
    name = path.replace("output", "its output", 1) if parting.event.is_end else f"argument {path}"
    if comparison is None:
        more = f" (and {len(parting.paths) - 1} more)" if len(parting.paths) > 1 else ""
        return f"{name}{more} differs{_plain(parting, path)}"
    part = ", ".join(_parts(comparison))
    looks = (
        f"; it looks like this: {comparison.likeness.text}"
        if comparison.likeness and not part and not found.differences
        else ""
    )
    ours, theirs = comparison.dtypes
    only_kind = ours != theirs and comparison.max_abs == 0
    how = f"equal values, as {ours}, the reference's as {theirs}" if only_kind else how_far(comparison)
    return f"{name}{f', {part},' if part else ''} differs ({how}){looks}"


def _plain(parting: Parting, path: str) -> str:
    """Both values, where they are plain ones, or tensors of other shapes or dtypes."""
    pair = []
    for event in (parting.ours, parting.theirs):
        value: Any = dict(event.values).get(path) if event is not None else None
        if value is not None and not isinstance(value, str):
            value = f"{value.dtype} {list(value.shape)}"
        pair.append(value)
    if None in pair or pair[0] == pair[1]:
        return ""
    return f": {pair[0]}, the reference's {pair[1]}"


def _parts(comparison: Comparison, joint: str = " to ", extra: int = 0) -> list[str]:
    """The ranges of named axes in which everything that differs lies: `channels 16 to 31`; none where it is all."""
    parts = []
    for axis in comparison.axes:
        ranges = axis.differing
        if len(ranges) != 1 or axis.name.startswith(("axis", "batch")):
            continue
        first, last = ranges[0]
        if last - first + 1 < axis.size:
            several = f"{axis.name}s {first}{joint}{last + extra}"
            parts.append(several if last > first else f"{axis.name} {first}")
    return parts


def _location(found: Divergence) -> str:
    parting = found.parting
    if parting.kind == "arguments" and parting.owner is None and parting.paths:
        comparison, call = found.values.get(parting.paths[0]), parting.event.call
        part = ", ".join(_parts(comparison, ":", 1)) if comparison is not None else ""
        path = f"{parting.paths[0]}[{part}]" if part else parting.paths[0]
        return path if call.method == FORWARD else f"{call.place}: {path}"
    return (parting.owner or parting.event.call).place


def _behind(found: Divergence) -> str:
    agreed, is_told = found.parting.agreed, found.parting.owner is None
    return (
        f"; the {agreed} events before it are equal"
        if agreed and not found.parting.given and not is_told
        else ""
    )


def _cause(found: Divergence, code: str, is_meant: bool) -> str | None:
    if is_meant:
        return None
    first = found.differences[0] if found.differences else None
    if code == "GM954":
        mode = "; it is in training mode, where dropout acts" if found.is_training else ""
        return f"weights, buffers and settings of the module are equal: its code or a kernel differs{mode}"
    if code == "GM952" and first is None:
        component = found.parting.event.call.component
        source = "the tokenizer's files, or " if component.startswith("text_encoder") else ""
        return (
            f"{source}the pipeline's code: configuration values that it goes by are equal, and so is whatever a "
            "module gave it"
        )
    return first.hint if first is not None and first.hint else None


def _evidence(found: Divergence) -> dict[str, Any]:
    parting, call = found.parting, found.parting.event.call
    return {
        "kind": parting.kind,
        "call": call.number,
        "method": call.method,
        "module": call.path,
        "class": found.class_name or None,
        "step": parting.event.step,
        "owner": parting.owner.place if parting.owner is not None else "pipeline",
        "events_before": parting.agreed,
        "within_rounding": found.within_rounding,
        "values": {
            path: {
                "relative_difference": comparison.relative_difference,
                "max_abs": comparison.max_abs,
                "part": ", ".join(_parts(comparison)) or None,
                "likeness": comparison.likeness.kind if comparison.likeness else None,
            }
            for path, comparison in list(found.values.items())[:MOST_LISTED]
        },
        "differences": {one.name: dict(one.evidence) for one in found.differences[:MOST_LISTED]},
        "one_side": [list(pair) for pair in parting.alone],
    }
