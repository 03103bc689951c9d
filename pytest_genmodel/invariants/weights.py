"""same_weights: candidate and reference stand in the relation that the contract says, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.diagnosis.at_rest.adapter import up_factors
from pytest_genmodel.diagnosis.at_rest.experts import hold_the_same
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.comparison import of_other_kind, one_sided
from pytest_genmodel.diagnosis.difference import difference_findings, numbers
from pytest_genmodel.diagnosis.difference.merged import merged_findings
from pytest_genmodel.diagnosis.finding import Finding, name_evidence
from pytest_genmodel.diagnosis.layers import drift_by_layer
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import Level, invariant


@invariant(level=Level.STATIC, needs_reference=True, takes_baseline=True)
def same_weights(context: Context) -> Iterator[Finding]:
    """Weights differ from the reference's only where the contract allows, and do differ where it requires.

    Equality is exact. A cast that loses nothing (float16 stored as float32) is equal; one that rounds is not.
    Which of its names a tied tensor is stored under makes no difference. Against a baseline equality is exact too,
    and how far a tensor moved is estimated.
    The relative change of the norm is always measured: a uniform 1 % rescale passes bfloat16's usual tolerance.
    """
    trusted, contract = context.trusted, context.contract
    candidate, reference = context.candidate.checkpoint, trusted.checkpoint
    compared = 0
    changed: set[str] = set()
    layers: dict[str, dict[str, float]] = {}
    yield from _exchanged(context, reference)  # first: it explains what differs
    for name in dict.fromkeys((*reference.components, *candidate.components)):
        if name not in candidate.components or name not in reference.components:
            where = "candidate" if name in candidate.components else "reference"
            yield one_sided(name, name, where)
            continue
        ours, theirs = candidate.components[name], reference.components[name]
        if kind := of_other_kind(name, ours, theirs):
            yield kind
        elif ours.has_weights:
            difference = trusted.difference(ours, name, context.candidate.progress)
            compared += difference.compared
            if difference.changed or difference.missing or difference.extra:
                changed.add(name)
            context.measure(**{name: numbers(difference)})
            if drift := drift_by_layer(difference):
                layers[name] = drift
            yield from difference_findings(name, difference, contract.of(name))
            if name == context.candidate.family.denoiser:
                yield from merged_findings(name, difference, candidate)
    if contract.one_of and not changed.intersection(contract.one_of):
        yield Finding(
            "GM302",
            f"none of {', '.join(contract.one_of)} differs from the reference's, and one was expected to",
            component=contract.one_of[0],
        )
    yield from _judge_adapter(context)
    if layers:
        context.measure(drift_by_layer=layers)
    context.measure(tensors_compared=compared)
    if not compared:
        context.cannot_judge("candidate and reference have no tensor in common")


def _exchanged(context: Context, reference: Checkpoint) -> Iterator[Finding]:
    """Denoisers of which one holds what another holds in the reference: shapes are equal, and it runs."""
    ours, theirs = context.candidate.checkpoint.components, reference.components
    names = [name for name in context.candidate.denoisers if name in theirs]
    for name in names:
        for other in names:
            if (
                other != name
                and hold_the_same(ours[name].weights, theirs[other].weights)
                and not hold_the_same(ours[name].weights, theirs[name].weights)
            ):
                yield Finding(
                    "GM431",
                    f"every weight of the {name} is that of the reference's {other}",
                    component=name,
                    location=f"{name}/",
                    cause="the folders of the experts were exchanged, or one was saved under both names",
                )


def _judge_adapter(context: Context) -> Iterator[Finding]:
    adapter = context.candidate.checkpoint.adapter
    change = context.contract.adapter
    if adapter is not None:
        context.measure(adapter=adapter.file.name)
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
