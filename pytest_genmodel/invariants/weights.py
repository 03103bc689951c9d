"""same_weights: candidate and reference stand in the relation that the contract says, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.diff import WeightDifference, compare_components
from pytest_genmodel.checkpoints.names import is_adapter_name, summarise
from pytest_genmodel.diagnosis.finding import Finding, name_evidence
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.contract import Change
from pytest_genmodel.invariants.registry import Level, invariant

MOST_REPORTED = 3
"""Changed tensors of a component that get a finding of their own; the others are listed in it."""


@invariant(level=Level.STATIC, needs_reference=True)
def same_weights(context: Context) -> Iterator[Finding]:
    """Weights differ from the reference's only where the contract allows, and do differ where it requires.

    Equality is exact. A cast that loses nothing (float16 stored as float32) is equal; one that rounds is not.
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
        elif ours.has_weights and theirs.has_weights:
            difference = compare_components(ours, theirs)
            compared += difference.compared
            context.measure(**{name: _numbers(difference)})
            yield from _judge(name, difference, contract.of(name))
    yield from _judge_adapter(context)
    context.measure(tensors_compared=compared)
    if not compared:
        context.cannot_judge("candidate and reference have no tensor in common")


def _judge(name: str, difference: WeightDifference, change: Change) -> Iterator[Finding]:
    for tensor in difference.not_finite[:MOST_REPORTED]:
        yield Finding("GM304", f"{tensor} holds NaN or Inf", component=name, location=tensor)
    if difference.missing:
        yield Finding(
            "GM207",
            f"{len(difference.missing)} tensors of the reference are not in the candidate: "
            f"{summarise(difference.missing)}",
            component=name,
            location=difference.missing[0],
            evidence=name_evidence(difference.missing),
        )
    factors = [tensor for tensor in difference.extra if is_adapter_name(tensor)]
    extra = [tensor for tensor in difference.extra if tensor not in factors]
    if factors:
        yield Finding(
            "GM203",
            f"{len(factors)} LoRA factors lie in the candidate's file: {summarise(factors)}",
            component=name,
            location=factors[0],
            cause="the component was saved while its LoRA was still attached",
            evidence=name_evidence(factors),
        )
    if extra:
        yield Finding(
            "GM207",
            f"{len(extra)} tensors are in the candidate only: {summarise(extra)}",
            component=name,
            location=extra[0],
            evidence=name_evidence(extra),
        )
    if change is Change.REQUIRED and difference.is_empty:
        yield Finding(
            "GM302",
            f"all {difference.compared} tensors equal the reference's",
            component=name,
            location=f"{name}/",
        )
    if difference.rounded:
        names = list(difference.rounded)
        yield Finding(
            "GM305",
            f"{len(names)} tensors are the reference's rounded to {difference.rounded[names[0]]}: "
            f"{summarise(names)}",
            component=name,
            location=names[0],
            cause="the checkpoint was saved in a narrower dtype than the reference",
            evidence=name_evidence(names),
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
        f"{len(worst)} of {difference.compared} tensors differ from the reference's, {worst[0]} most "
        f"(relative difference {_figure(first.relative_difference)}, "
        f"norm changed by {_figure(first.relative_norm_change)}){looks}",
        component=name,
        location=worst[0],
        cause=first.likeness.hint if first.likeness and forbidden else None,
        evidence={
            **name_evidence(worst),
            "worst": {
                tensor: {
                    "relative_difference": detail.relative_difference,
                    "relative_norm_change": detail.relative_norm_change,
                    "max_abs": detail.max_abs,
                    "likeness": detail.likeness.kind if detail.likeness else None,
                }
                for tensor, detail in details.items()
            },
        },
    )


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _numbers(difference: WeightDifference) -> dict[str, float | int]:
    norms = [comparison.relative_norm_change or 0.0 for comparison in difference.changed.values()]
    moved = [comparison.relative_difference or 0.0 for comparison in difference.changed.values()]
    return {
        "compared": difference.compared,
        "changed": len(difference.changed),
        "rounded": len(difference.rounded),
        "largest_relative_norm_change": max(norms, default=0.0),
        "largest_relative_difference": max(moved, default=0.0),
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
    if adapter is not None and change is Change.FORBIDDEN:
        yield Finding(
            "GM301",
            "the candidate carries an adapter and was expected to be identical",
            component=context.candidate.family.denoiser,
            location=adapter.file.name,
        )
