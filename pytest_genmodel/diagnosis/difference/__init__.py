"""What the difference between a candidate's component and the reference's comes to, as findings.

Used by the invariant `same_weights` and by the command line. Marks of a fault come first (a swap, a shift, one factor
for all, tensors made anew), each with the tensors it explains; what is left is said in one summary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.names import is_adapter_name
from pytest_genmodel.checkpoints.weights import torch_dtype
from pytest_genmodel.diagnosis.at_rest.fused import fused_copies
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.difference.arithmetic import arithmetic_findings, computed
from pytest_genmodel.diagnosis.difference.dealt import dealt, dealt_findings
from pytest_genmodel.diagnosis.difference.drift import (
    MOST_GROUPS,
    Drift,
    drift_of,
    figure,
    made_anew,
    one_factor,
    relative_changes,
)
from pytest_genmodel.diagnosis.difference.misread import misread, misread_findings
from pytest_genmodel.diagnosis.difference.order import order_findings, reordered
from pytest_genmodel.diagnosis.difference.rearranged import (
    SUSPICIOUS,
    moved_content,
    moved_findings,
    shift_finding,
    shifted,
)
from pytest_genmodel.diagnosis.difference.recast import recast, recast_finding
from pytest_genmodel.diagnosis.difference.rows import rows_finding, untrained_rows
from pytest_genmodel.diagnosis.difference.torn import old_shards, shards_finding, stretch, stretch_finding
from pytest_genmodel.diagnosis.difference.whole import factor_finding, unlike, unlike_finding, whole_factor
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.diagnosis.limit import beyond_tolerance, rounding_to
from pytest_genmodel.diagnosis.rules import Severity

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison

__all__ = ["Change", "difference_findings", "how_far", "numbers"]

MOST_REPORTED = 3
"""Changed tensors of a component whose figures stand in the finding; the others are named."""
_DECLARED = re.compile(r"\.(fp16|bf16|fp8\w*)[.-]")
"""A variant's name in the file says that its dtype is meant."""


def difference_findings(name: str, difference: WeightDifference, change: Change) -> Iterator[Finding]:
    """Say what differs in the component `name` and how it weighs, the finding nearest to the root cause first.

    Args:
        name: the component.
        difference: what comparing its weights came to.
        change: what the contract says of it.
    """
    component = name or None
    if difference.not_finite:
        yield finding_of("GM304", difference.not_finite, "hold NaN or Inf", component=component)
    yield from _one_side(component, difference)
    if change is Change.REQUIRED and not (difference.changed or difference.missing or difference.extra):
        but = f", {len(difference.rounded)} of them once they are rounded" if difference.rounded else ""
        yield Finding(
            "GM302",
            f"all {difference.compared} tensors equal the reference's{but}",
            component=component,
            location=f"{name}/",
        )
    if difference.rounded:
        yield _rounded(component, difference, change)
    told: set[str] = set()
    for finding, names in _marks(name, difference, change):
        told.update(names)
        yield finding
    if rest := [tensor for tensor in difference.worst_first() if tensor not in told]:
        yield _changed(component, difference, rest, told, change)
    if names := recast(difference):
        yield recast_finding(component, difference, names)


def _one_side(component: str | None, difference: WeightDifference) -> Iterator[Finding]:
    if difference.missing:
        yield finding_of(
            "GM207",
            difference.missing,
            "are not in the candidate",
            noun="of the reference's tensors",
            component=component,
        )
    factors = [tensor for tensor in difference.extra if is_adapter_name(tensor)]
    if factors:
        yield finding_of(
            "GM203",
            factors,
            "lie in the candidate's file",
            noun="LoRA factors",
            component=component,
            cause="the component was saved while its LoRA was still attached",
        )
    known = {*factors, *fused_copies(difference.ours, difference.extra)}
    if extra := [tensor for tensor in difference.extra if tensor not in known]:
        yield finding_of("GM207", extra, "are in the candidate only", component=component)


def _rounded(component: str | None, difference: WeightDifference, change: Change) -> Finding:
    """A cast that rounds: a note where it is meant.

    A file whose name declares the dtype (`model.fp16.safetensors`) is a variant. A component that was trained, and of
    which no changed tensor is stored wider, was trained or saved in that dtype: the tensors here just did not move.
    """
    names = list(difference.rounded)
    declared = all(_DECLARED.search(path.name) for path in difference.ours.files)
    trained = change is not Change.FORBIDDEN and _all_narrow(difference)
    severity = Severity.ERROR if change is Change.FORBIDDEN else Severity.WARNING
    return finding_of(
        "GM305",
        names,
        f"are the reference's rounded to {difference.rounded[names[0]]}",
        component=component,
        severity=Severity.NOTE if declared or trained else severity,
        cause=f"{difference.ours.files[0].name} is the variant in this dtype, by its name"
        if declared
        else "the checkpoint was saved in a narrower dtype than the reference",
        action="Nothing to do if the dtype is meant." if declared or trained else None,
        evidence=rounding_to(difference.rounded[names[0]]),
    )


def _all_narrow(difference: WeightDifference) -> bool:
    """Whether tensors changed, and all of them are stored in a dtype that others were rounded to."""
    ours, narrow = difference.ours.tensors, set(difference.rounded.values())
    kinds = {str(torch_dtype(ours[tensor].dtype)).removeprefix("torch.") for tensor in difference.changed}
    return bool(kinds) and kinds <= narrow


def _marks(name: str, difference: WeightDifference, change: Change) -> Iterator[tuple[Finding, list[str]]]:
    """Faults that explain many changed tensors at once, each with the tensors that it explains."""
    if not difference.changed:
        return  # the same: nothing is worth importing torch for
    if difference.glances is None and (torn := stretch(difference)):
        yield stretch_finding(name, torn, difference.compared), list(difference.changed)
        return
    if change is not Change.FORBIDDEN and (old := old_shards(difference)):
        yield shards_finding(name, old, difference.compared), []
    changes = relative_changes(difference)
    suspects = sorted((t for t, gap in changes.items() if gap >= SUSPICIOUS), key=lambda t: -changes[t])
    suspects = [tensor for tensor in suspects if _same_shape(difference.changed[tensor])]
    told: set[str] = set()
    if moved := moved_content(difference, suspects):
        told.update(found.name for found in moved)
        for finding in moved_findings(name, moved):
            yield finding, [found.name for found in moved]
    left = [tensor for tensor in suspects if tensor not in told]
    shift, names = shifted(difference, left)
    if names:
        told.update(names)
        yield shift_finding(name, shift, names, difference.compared), names
    if not told and (whole := whole_factor(difference)):
        told.update(whole[1])
        yield factor_finding(name, *whole, difference.compared), whole[1]
    if mixed := dealt(difference, [tensor for tensor in suspects if tensor not in told]):
        told.update(tensor for one in mixed for tensor in one.names)
        yield from dealt_findings(name, mixed, difference.compared)
    if orders := reordered(difference, [tensor for tensor in suspects if tensor not in told]):
        told.update(one.name for one in orders)
        for finding in order_findings(name, orders, difference.compared):
            yield finding, list(finding.evidence["tensors"])
    if bits := misread(difference, [tensor for tensor in suspects if tensor not in told]):
        told.update(one.name for one in bits)
        yield from misread_findings(name, bits, difference.compared)
    if anew := [tensor for tensor in made_anew(difference) if tensor not in told]:
        told.update(anew)
        yield _made_anew(name, difference, anew, change), anew
    left = [tensor for tensor in difference.changed if tensor not in told]
    if change is not Change.FORBIDDEN and (part := untrained_rows(difference)):
        told.update(part[1])
        yield rows_finding(name, *part, difference.compared), part[1]
        left = [tensor for tensor in left if tensor not in told]
    if change is not Change.FORBIDDEN and (other := unlike(difference, left)):
        yield unlike_finding(name, other, left, difference.compared, change), left
        return
    if factor := one_factor(difference, left):
        told.update(factor[1])
        yield _one_factor(name, difference, *factor, change), factor[1]
    if (
        change is not Change.FORBIDDEN
    ):  # there any difference is one, and what it looks like is said of the worst
        numbers = computed(difference, [tensor for tensor in suspects if tensor not in told])
        for finding in arithmetic_findings(name, numbers, difference.compared):
            yield finding, list(finding.evidence["tensors"])


def _same_shape(comparison: Comparison) -> bool:
    return comparison.shapes[0] == comparison.shapes[1]


def _made_anew(name: str, difference: WeightDifference, anew: list[str], change: Change) -> Finding:
    drift = drift_of(difference)
    detail = difference.detail(anew[0])
    looks = f"; {anew[0]}: {detail.likeness.text}" if detail.likeness else ""
    return finding_of(
        "GM317",
        anew,
        "have nothing in common with the reference's",
        of=difference.compared,
        after=f"; half of all tensors moved by less than {drift.median if drift else 0.0:.2g} of their size{looks}",
        component=name or None,
        severity=Severity.ERROR if change is Change.FORBIDDEN else Severity.WARNING,
        cause="no file filled these tensors when the model was loaded for training or saving, and they kept the "
        "random values of a new layer",
        evidence={"drift": drift.to_json() if drift else None, **_apart(difference, anew, detail)},
    )


def _one_factor(
    name: str, difference: WeightDifference, factor: float, names: list[str], change: Change
) -> Finding:
    alone = len(names) == len(difference.changed)
    wrong = change is Change.FORBIDDEN or (change is Change.REQUIRED and alone)
    every = "every changed tensor" if alone else f"{len(names)} of {len(difference.changed)} changed tensors"
    return Finding(
        "GM316",
        f"{every} ({len(names)} of {difference.compared}) is the reference's times {factor:.6g}"
        if alone
        else f"{every} are the reference's times {factor:.6g}",
        component=name or None,
        location=names[0],
        severity=Severity.ERROR if wrong else Severity.WARNING,
        cause="weight decay shrank what got no gradient" if 0.0 < factor < 1.0 else None,
        evidence={"factor": factor, **name_evidence(names), **_apart(difference, names)},
    )


def _changed(
    component: str | None,
    difference: WeightDifference,
    worst: list[str],
    told: set[str],
    change: Change,
) -> Finding:
    details = {tensor: difference.detail(tensor) for tensor in worst[:MOST_REPORTED]}
    first = details[worst[0]]
    looks = f"; it looks like this: {first.likeness.text}" if first.likeness else ""
    forbidden = change is Change.FORBIDDEN
    drift = drift_of(difference, told)
    return Finding(
        "GM301" if forbidden else "GM306",
        f"{len(worst)} of {difference.compared} tensors {'differs' if len(worst) == 1 else 'differ'} from the "
        f"reference's{_norm_change(difference, worst)}"
        f"; {_how_they_moved(drift, worst)}{worst[0]} moved most ({how_far(first)}){looks}",
        component=component,
        location=worst[0],
        cause=first.likeness.hint if first.likeness and forbidden else None,
        evidence={
            **name_evidence(worst),
            **_apart(difference, worst, first),
            "drift": drift.to_json() if drift else None,
            "worst": {
                tensor: {
                    "relative_difference": figure(detail.relative_difference, detail),
                    "relative_norm_change": figure(detail.relative_norm_change, detail),
                    "max_abs": figure(detail.max_abs, detail),
                    "likeness": detail.likeness.kind if detail.likeness else None,
                }
                for tensor, detail in details.items()
            },
        },
    )


def _apart(difference: WeightDifference, names: list[str], first: Comparison | None = None) -> dict[str, Any]:
    """How far the first of the changed tensors `names` is, and what all of them would pass."""
    return beyond_tolerance(
        [first or difference.changed[names[0]], *(difference.changed[name] for name in names[1:])]
    )


def _norm_change(difference: WeightDifference, names: list[str]) -> str:
    norms = {
        tensor: norm
        for tensor in names
        if (norm := figure(difference.changed[tensor].relative_norm_change, difference.changed[tensor]))
        is not None
    }
    if not norms:
        return ""
    most = max(norms, key=norms.__getitem__)
    return f", their norms by up to {norms[most]:.3g} ({most})"


def _how_they_moved(drift: Drift | None, names: list[str]) -> str:
    """The median of the relative changes, and the kinds of tensors that moved most."""
    if drift is None or len(names) < 4:
        return ""
    kinds = ", ".join(f"{kind} {value:.2g}" for kind, value in drift.groups[:MOST_GROUPS])
    return f"half of all tensors moved by at most {drift.median:.2g} of their size (most: {kinds}); "


def how_far(comparison: Comparison) -> str:
    """Say in a few words how far a changed tensor is from the reference's, whatever it holds."""
    ours, theirs = comparison.shapes
    if ours != theirs:
        return f"its shape is {list(ours)}, the reference's {list(theirs)}"
    for who, count in zip(("its values", "the reference's values"), comparison.nonfinite, strict=True):
        if bad := count.nan + count.inf:
            return f"{bad} of {comparison.numel} of {who} are NaN or Inf"
    if comparison.relative_difference == float("inf"):
        return f"the reference is all zero; max |a-b| {_figure(comparison.max_abs)}"
    if comparison.max_abs is None and comparison.note:
        return f"relative difference {_figure(comparison.relative_difference)}, {comparison.note}"
    return f"relative difference {_figure(comparison.relative_difference)}, max |a-b| {_figure(comparison.max_abs)}"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def numbers(difference: WeightDifference) -> dict[str, Any]:
    """What is always measured; a tensor without a figure of its own is counted, not averaged in."""
    changed = difference.changed.values()
    norms = [figure(comparison.relative_norm_change, comparison) for comparison in changed]
    moved = [figure(comparison.relative_difference, comparison) for comparison in changed]
    drift = drift_of(difference)
    return {
        "compared": difference.compared,
        "changed": len(difference.changed),
        "rounded": len(difference.rounded),
        "without_figure": sum(value is None for value in moved),
        "largest_relative_norm_change": max((norm for norm in norms if norm is not None), default=0.0),
        "largest_relative_difference": max((value for value in moved if value is not None), default=0.0),
        "median_relative_difference": drift.median if drift else 0.0,
    }
