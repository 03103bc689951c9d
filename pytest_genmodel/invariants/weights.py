"""same_weights: candidate and reference stand in the relation that the contract says, tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import inf, isfinite
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.names import is_adapter_name
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.contract import Change
from pytest_genmodel.invariants.registry import Level, invariant
from pytest_genmodel.pipelines.equality import compare_stored

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison

MOST_REPORTED = 3
"""Changed tensors of a component whose figures stand in the finding; the others are named."""

_UP_FACTOR = re.compile(r"(^|[._])lora(_B|_up|_embedding_B|\.up)(\.|$)")


@invariant(level=Level.STATIC, needs_reference=True)
def same_weights(context: Context) -> Iterator[Finding]:
    """Weights differ from the reference's only where the contract allows, and do differ where it requires.

    Equality is exact. A cast that loses nothing (float16 stored as float32) is equal; one that rounds is not.
    Which of its names a tied tensor is stored under makes no difference.
    The relative change of the norm is always measured: a uniform 1 % rescale passes bfloat16's usual tolerance.
    """
    candidate, reference, contract = (
        context.candidate.checkpoint,
        context.reference.checkpoint,
        context.contract,
    )
    compared = 0
    for name in dict.fromkeys((*reference.components, *candidate.components)):
        if name not in candidate.components or name not in reference.components:
            where = "candidate" if name in candidate.components else "reference"
            yield Finding(
                "GM206", f"only the {where} has a {name}", component=name, location="model_index.json"
            )
            continue
        ours, theirs = candidate.components[name], reference.components[name]
        if ours.class_name != theirs.class_name and (ours.has_weights or theirs.has_weights):
            yield Finding(
                "GM206",
                f"{name} is a {ours.class_name}, the reference's a {theirs.class_name}",
                component=name,
                location=f"model_index.json:{name}",
            )
        elif ours.has_weights != theirs.has_weights:
            without, other = (
                ("reference", "candidate's") if ours.has_weights else ("candidate", "reference's")
            )
            yield Finding(
                "GM206",
                f"the {name} of the {without} holds no weights, the {other} does",
                component=name,
                location=f"{name}/",
            )
        elif ours.has_weights:
            difference = compare_stored(ours, theirs)
            compared += difference.compared
            context.measure(**{name: _numbers(difference)})
            yield from _judge(name, difference, contract.of(name))
    yield from _judge_adapter(context)
    context.measure(tensors_compared=compared)
    if not compared:
        context.cannot_judge("candidate and reference have no tensor in common")


def _judge(name: str, difference: WeightDifference, change: Change) -> Iterator[Finding]:
    if difference.not_finite:
        yield finding_of("GM304", difference.not_finite, "hold NaN or Inf", component=name)
    if difference.missing:
        yield finding_of(
            "GM207",
            difference.missing,
            "are not in the candidate",
            noun="of the reference's tensors",
            component=name,
        )
    factors = [tensor for tensor in difference.extra if is_adapter_name(tensor)]
    extra = [tensor for tensor in difference.extra if tensor not in factors]
    if factors:
        yield finding_of(
            "GM203",
            factors,
            "lie in the candidate's file",
            noun="LoRA factors",
            component=name,
            cause="the component was saved while its LoRA was still attached",
        )
    if extra:
        yield finding_of("GM207", extra, "are in the candidate only", component=name)
    if change is Change.REQUIRED and not (difference.changed or difference.missing or difference.extra):
        but = f", {len(difference.rounded)} of them once they are rounded" if difference.rounded else ""
        yield Finding(
            "GM302",
            f"all {difference.compared} tensors equal the reference's{but}",
            component=name,
            location=f"{name}/",
        )
    if difference.rounded:
        names = list(difference.rounded)
        yield finding_of(
            "GM305",
            names,
            f"are the reference's rounded to {difference.rounded[names[0]]}",
            component=name,
            severity=Severity.ERROR if change is Change.FORBIDDEN else Severity.WARNING,
            cause="the checkpoint was saved in a narrower dtype than the reference",
        )
    if difference.changed:
        yield _changed(name, difference, change)


def _changed(name: str, difference: WeightDifference, change: Change) -> Finding:
    worst = difference.worst_first()
    details = {tensor: difference.detail(tensor) for tensor in worst[:MOST_REPORTED]}
    first = details[worst[0]]
    looks = f"; it looks like this: {first.likeness.text}" if first.likeness else ""
    forbidden = change is Change.FORBIDDEN
    return Finding(
        "GM301" if forbidden else "GM306",
        f"{len(worst)} of {difference.compared} tensors differ from the reference's{_norm_change(difference)}; "
        f"{worst[0]} moved most ({how_far(first)}){looks}",
        component=name,
        location=worst[0],
        cause=first.likeness.hint if first.likeness and forbidden else None,
        evidence={
            **name_evidence(worst),
            "worst": {
                tensor: {
                    "relative_difference": _finite(detail.relative_difference, detail),
                    "relative_norm_change": _finite(detail.relative_norm_change, detail),
                    "max_abs": _finite(detail.max_abs, detail),
                    "likeness": detail.likeness.kind if detail.likeness else None,
                }
                for tensor, detail in details.items()
            },
        },
    )


def _norm_change(difference: WeightDifference) -> str:
    norms = {
        tensor: norm
        for tensor, comparison in difference.changed.items()
        if (norm := _finite(comparison.relative_norm_change, comparison)) is not None
    }
    if not norms:
        return ""
    most = max(norms, key=norms.__getitem__)
    return f", their norms by up to {norms[most]:.3g} ({most})"


def how_far(comparison: Comparison) -> str:
    """Say in a few words how far a changed tensor is from the reference's, whatever it holds."""
    ours, theirs = comparison.shapes
    if ours != theirs:
        return f"its shape is {list(ours)}, the reference's {list(theirs)}"
    for who, count in zip(("its values", "the reference's values"), comparison.nonfinite, strict=True):
        if bad := count.nan + count.inf:
            return f"{bad} of {comparison.numel} of {who} are NaN or Inf"
    if comparison.relative_difference == inf:
        return f"the reference is all zero; max |a-b| {_figure(comparison.max_abs)}"
    return f"relative difference {_figure(comparison.relative_difference)}, max |a-b| {_figure(comparison.max_abs)}"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _finite(value: float | None, comparison: Comparison) -> float | None:
    """The figure, where it is one: None where a side holds NaN or Inf, or a reference of zeros makes it infinite."""
    odd = any(side.nan or side.inf for side in comparison.nonfinite)
    return None if value is None or odd or not isfinite(value) else value


def _numbers(difference: WeightDifference) -> dict[str, float | int]:
    """What is always measured; a tensor without a figure of its own (see `_finite`) is counted, not averaged in."""
    changed = difference.changed.values()
    norms = [_finite(comparison.relative_norm_change, comparison) for comparison in changed]
    moved = [_finite(comparison.relative_difference, comparison) for comparison in changed]
    return {
        "compared": difference.compared,
        "changed": len(difference.changed),
        "rounded": len(difference.rounded),
        "without_figure": sum(figure is None for figure in moved),
        "largest_relative_norm_change": max((norm for norm in norms if norm is not None), default=0.0),
        "largest_relative_difference": max((figure for figure in moved if figure is not None), default=0.0),
    }


def _judge_adapter(context: Context) -> Iterator[Finding]:
    adapter = context.candidate.checkpoint.adapter
    change = context.contract.adapter
    if adapter is None and change is Change.REQUIRED:
        yield Finding(
            "GM302",
            "an adapter was expected and the candidate has none",
            component=context.candidate.family.denoiser,
            action="Give the adapter's folder or file as --genmodel-ckpt.",
        )
    if adapter is not None and change is Change.REQUIRED:
        yield from _adapter_acts(adapter, context.candidate.family.denoiser)
    if adapter is not None and change is Change.FORBIDDEN:
        yield Finding(
            "GM301",
            "the candidate carries an adapter and was expected to be identical",
            component=context.candidate.family.denoiser,
            location=adapter.file.name,
        )


def up_factors(names: Iterable[str]) -> list[str]:
    """The names of factors that start at zero, so that an adapter acts only once they have moved."""
    return [name for name in names if _UP_FACTOR.search(name)]


def _adapter_acts(adapter: Adapter, denoiser: str) -> Iterator[Finding]:
    ups = up_factors(adapter.weights.tensors)
    if any(bool(adapter.weights.read(name).any()) for name in ups):
        return
    yield Finding(
        "GM302",
        f"all {len(ups)} up factors of the adapter (lora_B, lora_up) are zero: it changes nothing"
        if ups
        else "the adapter holds no up factor (lora_B, lora_up): it changes nothing",
        component=denoiser,
        location=ups[0] if ups else adapter.file.name,
        evidence=name_evidence(ups),
    )
